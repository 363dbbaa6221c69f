"""Write docs/images/web.png: the chat page with the model that `make demo` trains.

    llava-pl export runs/demo/finetune shapes --format hf
    python docs/make_screenshots.py shapes runs/demo/data/scienceqa/images/test/261/*.png "What colour is the triangle?"

Needs the extra [app], playwright and Chromium.
"""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).parent / "images"


def main(model: str, picture: str, question: str) -> None:
    """Ask about a picture, and draw where the model looked for the first word of its answer."""
    words = [sys.executable, "-m", "llava_pl", "web", model, "--port", "0"]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
    address = server.stdout.readline().split()[0]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1240, "height": 860})
        page.goto(address)
        box = page.get_by_role("textbox").first
        box.wait_for()
        with page.expect_file_chooser() as chooser:
            page.get_by_label("Upload a file").click()
        chooser.value.set_files(picture)
        page.get_by_role("button", name="Remove file").wait_for()
        box.fill(question)
        box.press("Enter")
        page.locator("#words label").first.click()
        page.locator("#maps img").first.wait_for()
        page.wait_for_timeout(500)
        page.screenshot(path=IMAGES / "web.png")
        browser.close()
    server.send_signal(signal.SIGINT)
    server.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
