"""Guards the files that others train from: a byte that differs is another training set."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llava_pl.data.scienceqa import ANSWER_FORMATS, QUESTION_FORMATS, read_scienceqa
from llava_pl.data.scienceqa_convert import is_parquet_folder, write_llava_json, write_official_folder
from llava_pl.types import InputError

FIELDS = {
    "hint": "", "task": "closed choice", "grade": "grade2", "subject": "natural science", "topic": "t",
    "category": "c", "skill": "s", "lecture": "", "solution": "", "split": "test",
}  # fmt: skip
PROBLEMS = {
    "7": {"question": "Is ice  cold?", "choices": ["yes", "no"], "answer": 0, "image": None} | FIELDS
    | {"lecture": "Ice is\\nfrozen.", "solution": "It is."},
    "12": {"question": "Where?", "choices": ["h\u00e9re", "there"], "answer": 1, "image": "image.png"} | FIELDS,
}  # fmt: skip

# By hand, from the definition of the format.
LEA = """[
  {
    "id": "7",
    "conversations": [
      {
        "from": "human",
        "value": "Is ice cold?\\nContext: N/A\\nOptions: (A) yes (B) no"
      },
      {
        "from": "gpt",
        "value": "Ice is\\nfrozen. It is. The answer is A."
      }
    ]
  },
  {
    "id": "12",
    "image": "12/image.png",
    "conversations": [
      {
        "from": "human",
        "value": "Where?\\nContext: N/A\\nOptions: (A) h\\u00e9re (B) there\\n<image>"
      },
      {
        "from": "gpt",
        "value": " The answer is B."
      }
    ]
  }
]"""


@pytest.fixture
def root(tmp_path):
    (tmp_path / "problems.json").write_text(json.dumps(PROBLEMS))
    (tmp_path / "pid_splits.json").write_text(json.dumps({"test": ["7", "12"], "minitest": ["12"]}))
    return tmp_path


def test_bytes(root, tmp_path):
    path = write_llava_json(root, "test", "QCM-LEA", tmp_path / "out")
    assert path == tmp_path / "out" / "llava_test_QCM-LEA.json"
    assert path.read_text() == LEA


@pytest.mark.parametrize(
    ("prompt_format", "question", "answer"),
    [
        ("CQM-A", "Context: N/A\nQuestion: Is ice cold?\nOptions: (A) yes (B) no", "The answer is A."),
        (
            "QCM-ALE",
            "Is ice cold?\nContext: N/A\nOptions: (A) yes (B) no",
            "The answer is A. BECAUSE: Ice is\nfrozen. It is.",
        ),
        ("QCM-AEL", None, "The answer is A. BECAUSE: It is. Ice is\nfrozen."),
        ("QCM-ELA", None, "It is. Ice is\nfrozen. The answer is A."),
        # LLaVA: a single reason behind the answer is the other one.
        ("QCM-AL", None, "The answer is A. BECAUSE: It is."),
        ("QCM-AE", None, "The answer is A. BECAUSE: Ice is\nfrozen."),
        ("QCM-LA", None, "Ice is\nfrozen. The answer is A."),
        ("QCM-EA", None, "It is. The answer is A."),
        ("QCM-LEPA", None, "LECTURE: Ice is\nfrozen.\nSOLUTION: It is.\n###\nANSWER: A."),
        ("QCML-A", "Is ice cold?\nContext: N/A\nOptions: (A) yes (B) no\nBECAUSE: Ice is\nfrozen.", None),
        ("QCLEM-A", "Is ice cold?\nContext: N/A\nBECAUSE: Ice is\nfrozen. It is.\nOptions: (A) yes (B) no", None),
    ],
)
def test_formats(root, tmp_path, prompt_format, question, answer):
    entry = json.loads(write_llava_json(root, "test", prompt_format, tmp_path).read_text())[0]
    human, gpt = (turn["value"] for turn in entry["conversations"])
    assert question in (None, human)
    assert answer in (None, gpt)


def test_every_format_is_written(root, tmp_path):
    for question in QUESTION_FORMATS:
        for answer in ANSWER_FORMATS:
            assert (
                len(json.loads(write_llava_json(root, "minitest", f"{question}-{answer}", tmp_path).read_text())) == 1
            )


@pytest.mark.parametrize("prompt_format", ["QCM", "QCM-", "-A", "QMC-A", "QCM-XA"])
def test_unknown_formats(root, tmp_path, prompt_format):
    with pytest.raises(InputError, match="prompt_format: expected one of QCM, CQM"):
        write_llava_json(root, "test", prompt_format, tmp_path)


def write_parquet(path, split, *, column="id", ids=("7", "12")):
    rows = []
    for name, problem in zip(ids, PROBLEMS.values(), strict=True):
        picture = {"bytes": b"png of " + name.encode(), "path": "image.png"} if problem["image"] else None
        rows.append({**{k: v for k, v in problem.items() if k != "split"}, "image": picture, column: name})
    path.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path / f"{split}-00000-of-00001-abc.parquet")


def test_parquet_to_the_official_folder(tmp_path):
    write_parquet(tmp_path / "hub", "validation")
    write_parquet(tmp_path / "hub", "test", column="other", ids=("a", "b"))
    assert is_parquet_folder(tmp_path / "hub")
    assert write_official_folder(tmp_path / "hub", tmp_path / "root") == {"test": 2, "val": 2}
    assert not is_parquet_folder(tmp_path / "root")
    found = read_scienceqa(tmp_path / "root", "val")
    assert list(found) == ["7", "12"]
    assert (found["12"].choices, found["12"].image_path) == (("h\u00e9re", "there"), "images/val/12/image.png")
    assert (tmp_path / "root" / found["12"].image_path).read_bytes() == b"png of 12"
    # Without identifiers a problem is called by its split and its place.
    assert list(read_scienceqa(tmp_path / "root", "test")) == ["test0", "test1"]


def test_wrong_parquet(tmp_path, root):
    write_parquet(tmp_path / "hub", "holdout")
    with pytest.raises(InputError, match="expected a name that begins with one of train, validation, val, test"):
        write_official_folder(tmp_path / "hub", tmp_path / "new")
    with pytest.raises(InputError, match="expected a new folder, found a data set"):
        write_official_folder(tmp_path / "hub", root)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "test.parquet").write_text("no")
    with pytest.raises(InputError, match="cannot be read as a parquet file"):
        write_official_folder(tmp_path / "broken", tmp_path / "new")
    pq.write_table(pa.table({"question": ["?"]}), tmp_path / "broken" / "test.parquet")
    with pytest.raises(InputError, match="found none called answer, choices, image"):
        write_official_folder(tmp_path / "broken", tmp_path / "new")
    write_parquet(tmp_path / "twice", "test")
    write_parquet(tmp_path / "twice", "train")
    with pytest.raises(InputError, match="column 'id': expected a name of its own for each problem, found '7'"):
        write_official_folder(tmp_path / "twice", tmp_path / "new")
