"""Whether the key network can carry more lines, asked at the QKMP before they are ordered. Nothing is changed by it."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from qsotn.domain import PartyId
from qsotn.keynetwork.admission import Demand
from qsotn.parties.network_admission import Admission, Verdict, WayCarried, admit
from qsotn.service.http.answer import Answer, json_answer
from qsotn.service.http.declaring import at_desk
from qsotn.service.http.names import END
from qsotn.service.http.operation import DESK, OPERATORS, PREFIX, Call, Content, Success, operation
from qsotn.service.http.problems import REFUSED

MOST_LINES: Final = 1_000_000
KmId = Annotated[str, msgspec.Meta(pattern=f"^km/[A-Za-z0-9._-]{{1,56}}{END}", description="A key manager: `km/name`.")]


class AdmissionQuestion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Can these two cities carry so many more lines? `origin` is the key manager at end A of each, `target` at end B.

    Every line takes two keys of `key_bits`, one for each direction of its frames, every `rekey_interval_s` seconds.
    """

    origin: KmId
    target: KmId
    lines: Annotated[int, msgspec.Meta(ge=1, le=MOST_LINES)]
    rekey_interval_s: Annotated[int, msgspec.Meta(ge=1, le=86_400)] = 60
    key_bits: Annotated[int, msgspec.Meta(ge=64, le=1024, multiple_of=8)] = 256


_QUESTION: Final = AdmissionQuestion("km/jinan", "km/qingdao", 100)
_ANSWER: Final = Admission(
    admitted=False,
    verdict=Verdict.NO,
    lines_asked=100,
    lines_fit=62,
    bits_s_per_line=8.533333333333333,
    ways=(WayCarried((PartyId("km/jinan"), PartyId("km/weifang"), PartyId("km/qingdao")), 62),),
    limiting_links=("weifang-qingdao",),
    reasons=(
        "weifang-qingdao let no more than 62 more lines through",
        "twice the rate of weifang-qingdao would add 38 lines",
        "1 lines and pools take keys already",
    ),
)


@operation(
    "POST",
    f"{PREFIX}/network/admission",
    tag="network",
    roles=OPERATORS,
    body=Content(AdmissionQuestion, _QUESTION),
    successes=(Success(200, "The answer: yes, no, or not yet.", Content(Admission, _ANSWER)),),
    problems=(*DESK, REFUSED),
)
async def ask_admission(call: Call[Any, Any, AdmissionQuestion]) -> Answer:
    """Whether the key network can carry more lines between two cities, beside what it carries.

    A maximum flow over what was seen of the links: a yes has ways for all lines at once, a no names the links that
    limit, and how many would fit. Links count by rates that they have shown over a minute at least; where it hangs on
    one that has not, the answer is NOT_YET, with the moment from which it can be said. Lines end in cities: the key
    manager of a relay is refused. It is a question: nothing is reserved, and the same one may be put again.
    """
    asked = call.body
    demand = Demand(PartyId(asked.origin), PartyId(asked.target), asked.lines, asked.rekey_interval_s, asked.key_bits)
    return json_answer(200, await at_desk(call, lambda qkmp: admit(qkmp, demand)))


OPERATIONS: Final = (ask_admission,)
