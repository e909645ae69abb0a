"""What errors say to people."""

from __future__ import annotations

import pytest

from rca.errors import UnknownName

_MANY = [f"worker-{number:02}" for number in range(30)]


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("catalog", ["cart", "catalogue", "orders"], "(did you mean catalogue or cart?)"),
        ("CHECKOUT", ["Checkout", "cart"], "(did you mean Checkout?)"),
        ("zzz", ["cart", "orders"], "(known: cart, orders)"),
        ("zzz", _MANY, f"(known: {', '.join(_MANY[:12])} and 18 more)"),
        ("zzz", [], "(known: none)"),
    ],
)
def test_an_unknown_name_comes_with_near_ones_or_with_those_that_exist(name: str, known: list[str], hint: str) -> None:
    assert str(UnknownName("service", name, known)) == f"service: expected a known name, found {name!r} {hint}"
