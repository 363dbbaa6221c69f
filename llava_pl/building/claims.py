"""What a teacher says is in a picture, against what it was told.

In: questions and answers, and the `Description` they were written of. Out: objects that are not there, and numbers that
cannot be. A sentence is read by rules of thumb: where it may mean something else, it passes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from llava_pl.building.descriptions import Description
from llava_pl.building.numbers import AT_LEAST, NUMBER, as_number
from llava_pl.building.objects import Mention, Objects
from llava_pl.building.prompts import Kind
from llava_pl.building.turns import Fault, Pairs

_PICTURE = r"in\s+(?:the|this)\s+(?:picture|image|photo|photograph|scene)"
_IN_PICTURE = rf"(?:\s+(?:visible|present|shown|here))?(?:\s+{_PICTURE})?"

# A denial reaches to a comma or "but"; over commas where it denies a list: "no cars, trucks, or bikes".
_DENIAL = (
    r"(?:\b(?:no(?!,)|not(?! only| just| merely| far)|without|never|nor|neither|lack(?:s|ing)?|free of|instead of|"
    r"rather than|nothing like)\b|n't\b(?! only| just))(?:(?!\bbut\b|\bonly\b)[^,:])*"
)
_DENIED = re.compile(rf"{_DENIAL}$", re.IGNORECASE)
_DENIED_IN_LIST = re.compile(rf"{_DENIAL}(?:,(?:\s+(?!and\b|but\b|he\b|she\b|it\b)[\w-]+){{0,3}}\s*)+$", re.IGNORECASE)
_DENIED_AFTER = re.compile(
    r"\s+(?:(?:is|are|was|were) (?:absent|missing|not|nowhere)|(?:is|are|was|were)n't)\b", re.IGNORECASE
)
_DENIES_ALL = re.compile(r"\bthere (?:(?:is|are) (?:no|not an?|not any)|(?:isn't|aren't) any?)\s+$", re.IGNORECASE)
_ENDS_THERE = re.compile(rf"{_IN_PICTURE}\s*(?:[.,;!?]|$)", re.IGNORECASE)

# What is compared to something, or is what it is not, is not said to be there.
_COMPARED = re.compile(
    r"\b(?:like|unlike|than|resembl\w+|remind\w*|instead of|besides|as if)\s+(?:[\w-]+\s+){0,3}$", re.IGNORECASE
)
# What may be, should be or usually is, is not said to be there either.
_MODAL = r"should|could|may|might|would|will|must|ought|can(?!(?: \w+)? be seen| see\b)|(?:needs?|have|has) to"
_MAYBE_BEFORE = re.compile(
    rf"\b(?:{_MODAL}|if|when|whenever|whether|unless|such as|for (?:example|instance)|avoid\w*|any|other|"
    r"(?:some|many|most|fewer|more) people|for\s+$|"
    r"including|advi[cs]\w+|recommend\w*|perhaps|maybe|probably|possibly|likely|in case|"
    r"to \w+(?:\s+(?:an?|the|their|his|her))?(?:\s+\w+)?\s+$)",
    re.IGNORECASE,
)
_MAYBE_AFTER = re.compile(rf"[^,]*\b(?:{_MODAL}|usually|often|generally|typically|tend)\b", re.IGNORECASE)
_BACKGROUND = re.compile(
    r"\b(?:why|could|would|should|may|might|if|usually|typically|often|generally|used for|known for|purpose|benefits?|"
    r"advantages?|history|tips?|healthy|safe|dangerous|probably|likely|how (?:do|does|can)|"
    r"(?:what|where) do (?!the|th[eo]se|they|you|we)\w+)\b",
    re.IGNORECASE,
)

_DEFINITE = re.compile(r"\b(?:the|this|these|those)\s+(?:[a-z-]+\s+)?$", re.IGNORECASE)
_YES_OR_NO = re.compile(r"(?:is|are|was|were|do|does|did|can|could|has|have|will|would|should|might)\b", re.IGNORECASE)
_IS_THERE = re.compile(r"^\s*(?:is|are) there (?:an?|any)\s+$", re.IGNORECASE)
_HOW_MANY = re.compile(r"\bhow many(?P<which>(?:\s+(?!of\b)[a-z-]+){0,2})\s+$", re.IGNORECASE)
_ASKED = re.compile(r"\s*(?:\?|(?:are|is|can|could|do|does|did|have|has|in|on|at|you)\b)", re.IGNORECASE)
_ASKED_OF_ALL = re.compile(
    rf"\s+(?:are|is|can|do|could)(?:\s+(?:there|you see|we see|you count|be seen|be counted))?{_IN_PICTURE}"
    r"(?:,?\s+(?:in total|altogether))?\s*\?",
    re.IGNORECASE,
)
# Behind these words stand some of them, or the number is none of all.
_SOME = re.compile(
    r"\b(?:another|others?|left|right|at least|more|about|around|approximately|nearly|almost|roughly|over|background|"
    rf"foreground|on|at|near|behind|under|beside|by|with|who|wearing|holding|next|of them|(?!{_PICTURE}|in total)in)\b",
    re.IGNORECASE,
)


def find_wrong_claims(kind: Kind, pairs: Pairs, description: Description, objects: Objects) -> Iterator[Fault]:
    """Yield objects and numbers in questions and answers that captions and boxes contradict.

    Args:
        kind: What was asked for.
        pairs: What was written.
        description: What the teacher was told.
        objects: Which words name which category.
    """
    boxes = Counter(box.category for box in description.boxes)
    known = objects.told([*description.captions, *boxes])
    crowds = {box.category for box in description.boxes if box.is_crowd}
    # Captions may count what has no box of its own: the higher number counts.
    most = Counter({category: boxes[category] for category in boxes.keys() - crowds - objects.uncounted})
    for caption in description.captions:
        numbers = _count_told(objects.find(caption))
        most |= Counter({category: numbers[category] for category in most})
    for question, answer in pairs:
        speaks_generally = kind == "reasoning" or _BACKGROUND.search(question) is not None
        asked, said = list(objects.find(question)), list(objects.find(answer))
        # What a question calls "the dog" is there, whatever it may do.
        definite = [mention for mention in asked if _DEFINITE.search(mention.before)]
        for mention in asked + said if _grants(question, answer) else said:
            if _is_denied(mention) or _COMPARED.search(mention.before):
                continue
            if (speaks_generally or mention.is_general) and _is_supposed(mention) and mention not in definite:
                continue
            if mention.category not in known and not _may_be_anybody(mention):
                yield Fault("object", mention.word)
            elif _says_more(mention, most):
                yield Fault("number", f"{mention.number} {mention.word}, boxes of {boxes[mention.category]}")
        yield from _find_denied(asked, said, answer, boxes)
        for mention in asked:
            yield from _compare_count(mention, said, answer, boxes[mention.category], most)


def _count_told(mentions: Iterable[Mention]) -> Counter[str]:
    """Return how many of each category a caption tells of, all its words together."""
    numbers: Counter[str] = Counter()
    for mention in mentions:
        is_again = re.search(r"\b(?:the|this|that|its)\s+$", mention.before, re.IGNORECASE)
        numbers[mention.category] += mention.number or (2 if mention.is_plural else 0 if is_again else 1)
    return numbers


def _grants(question: str, answer: str) -> bool:
    """Return whether what a question names is taken to be there."""
    if _YES_OR_NO.match(question):
        return answer.lower().startswith("yes")
    if re.match(r"how many\b", question, re.IGNORECASE):
        return any(as_number(match[1]) for match in NUMBER.finditer(answer))
    return True


def _is_denied(mention: Mention) -> bool:
    if _DENIED.search(mention.before) or _DENIED_AFTER.match(mention.after):
        return True
    is_list = re.search(r"\bn?or\b", mention.before + mention.after) is not None
    return is_list and _DENIED_IN_LIST.search(mention.before) is not None


def _may_be_anybody(mention: Mention) -> bool:
    """Return whether a general word says nothing of the picture: "people come here to rest"."""
    is_counted = mention.number is not None and not _is_vague(mention)
    return (
        mention.is_general
        and not is_counted
        and not re.search(r"\bthere (?:is|are)\b|\b(?:group|crowd|couple) of\s+$", mention.before, re.IGNORECASE)
    )


def _is_supposed(mention: Mention) -> bool:
    return _MAYBE_BEFORE.search(mention.before) is not None or _MAYBE_AFTER.match(mention.after) is not None


def _says_more(mention: Mention, most: Counter[str]) -> bool:
    """Return whether there are more than can be; "many people" may be people elsewhere."""
    if mention.number is None or mention.category not in most or (mention.is_general and _is_vague(mention)):
        return False
    return mention.number > most[mention.category]


def _is_vague(mention: Mention) -> bool:
    return re.search(rf"\b(?:{'|'.join(AT_LEAST)})\b", mention.before, re.IGNORECASE) is not None


def _find_denied(
    asked: Iterable[Mention], said: Iterable[Mention], answer: str, boxes: Counter[str]
) -> Iterator[Fault]:
    """Yield what is said not to be there at all, and has boxes."""
    says_no = re.match(r"no\b", answer, re.IGNORECASE) is not None
    denied = [mention for mention in asked if says_no and _IS_THERE.search(mention.before)]
    denied += [mention for mention in said if _DENIES_ALL.search(mention.before)]
    for mention in denied:
        if mention.is_own and mention.category in boxes and _ENDS_THERE.match(mention.after):
            yield Fault("object", f"no {mention.word}, boxes of {boxes[mention.category]}")
            return


def _compare_count(
    asked: Mention, said: list[Mention], answer: str, num_boxes: int, most: Counter[str]
) -> Iterator[Fault]:
    """Yield the number that answers how many there are, where it cannot be."""
    how_many = _HOW_MANY.search(asked.before)
    numbers = [as_number(match[1]) for match in NUMBER.finditer(answer)]
    same = [mention for mention in said if mention.category == asked.category]
    if how_many is None or asked.category not in most or not _ASKED.match(asked.after) or not numbers:
        return
    is_too_many = not any(mention.number for mention in same) and numbers[0] > most[asked.category]
    is_of_all = asked.is_own and not how_many["which"] and _ASKED_OF_ALL.match(asked.after) is not None
    is_all_said = len(numbers) == 1 and not _SOME.search(answer) and all(mention.is_own for mention in same)
    if is_too_many or (is_of_all and is_all_said and numbers[0] < num_boxes):
        yield Fault("number", f"{numbers[0]} {asked.word}, boxes of {num_boxes}")
