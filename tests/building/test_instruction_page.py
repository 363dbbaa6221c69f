"""Guards the page of instructions: boxes in the wrong place, text taken for HTML, a picture that stops it all."""

from PIL import Image

from llava_pl.building.descriptions import Box
from llava_pl.building.instruction_page import draw_boxes, instruction_page
from llava_pl.types import InputError


def test_pictures_with_boxes_and_reasons(written):
    def load(name):
        if name == "2.png":
            raise InputError("none")
        return Image.new("RGB", (40, 40))

    good, rejected = [each for each in written if not each.faults], [each for each in written if each.faults]
    page = instruction_page({"replies": 6}, good, rejected, load)
    # The second text that was refused has two reasons, and stands below both.
    assert page.count("<img ") == 6
    assert page.count("the picture cannot be shown") == 1
    assert page.count("object: a &lt;cat&gt;") == 3
    assert "<h2>object: not taken: 2</h2>" in page
    assert "<cat>" not in page


def test_no_pictures(written):
    page = instruction_page({}, written[:1], [], None)
    assert "<img " not in page
    # Whether a text is right can be told without a picture.
    assert "<p>A &lt;dog&gt;.</p><p>dog: [0.250, 0.250, 0.750, 0.750]</p>" in page
    assert "<h2>conversation: taken: 1</h2>" in page


def test_boxes():
    drawn = draw_boxes(Image.new("L", (400, 200)), [Box("dog", (0.25, 0.25, 0.75, 0.75))])
    assert (drawn.mode, drawn.size) == ("RGB", (320, 160))
    assert drawn.getpixel((80, 100)) == drawn.getpixel((240, 100)) == drawn.getpixel((160, 120)) == (214, 39, 40)
    assert drawn.getpixel((160, 100)) == drawn.getpixel((40, 100)) == (0, 0, 0)
