"""Guards: a mistyped option that sets another one, and an error without the name that was meant."""

import pytest

from llava_pl.cli import main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--run_d", "x"], "--run_d: no such option; did you mean run_dir?"),
        (
            ["--data.init_args.max_lenght", "3"],
            "--data.init_args.max_lenght: no such option; did you mean data.init_args.max_length?",
        ),
        (["--model.lora.rnak", "3"], "--model.lora.rnak: no such option; did you mean model.lora.rank?"),
    ],
)
def test_no_option_is_guessed(capsys, words, message):
    with pytest.raises(SystemExit, match="2"):
        main(["fit", *words])
    assert capsys.readouterr().err == f"llava-pl: error: {message}\n"
