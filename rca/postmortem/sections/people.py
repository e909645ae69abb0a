"""What only people can write: what was learnt, and what is to be done."""

from __future__ import annotations

from rca.documents.model import Question, Section, Table

QUESTIONS = (
    "What went well? What limited the damage, or made it short?",
    "What went badly? What was missing, slow, unclear or wrong?",
    "Where were we lucky? What would have made it worse?",
)


def lessons_section() -> Section:
    return Section("Lessons learnt", tuple(map(Question, QUESTIONS)), "lessons")


def actions_section() -> Section:
    asked = Question(
        "What is to be done, by whom, until when, so that it does not happen again, is seen sooner, or does less harm?"
    )
    table = Table(("Action", "Prevents, detects or mitigates", "Owner", "Due", "Ticket"), (("", "", "", "", ""),))
    return Section("Action items", (asked, table), "actions")
