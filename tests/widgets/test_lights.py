"""Lights say what they say three times: colour, shape and word."""

from __future__ import annotations

import re
from typing import Any

from workbench_widgets.lights import LIMIT, STATES, Light, Lights


def test_a_light_per_rank_in_a_list() -> None:
    lights = Lights()
    lights.show([Light(0, "training", "step 7"), Light(1, "waiting", "for <2>"), Light(2, "failed")])
    assert 'role="list"' in lights.value
    items = re.findall(
        r'<span role="listitem" class="workbench-light workbench-(\w+)" title="([^"]*)" aria-label="([^"]*)">(.*?)</span>', lights.value
    )
    assert [(state, title) for state, title, _, _ in items] == [
        ("training", "rank 0: training, step 7"), ("waiting", "rank 1: waiting, for &lt;2&gt;"), ("failed", "rank 2: failed"),
    ]  # fmt: skip
    for state, title, label, text in items:
        assert title == label
        assert all(part in text for part in STATES[state])


def test_every_state_has_a_shape_a_word_and_a_colour_of_its_own() -> None:
    from workbench_widgets.view import FOLDER

    assert len({shape for shape, _ in STATES.values()}) == len(STATES)
    assert len({word for _, word in STATES.values()}) == len(STATES)
    css = (FOLDER / "panel.css").read_text(encoding="utf-8")
    assert [state for state in STATES if f".workbench-{state}" not in css] == []


def test_lights_that_stay_the_same_send_nothing(listen: Any) -> None:
    lights = Lights()
    sent = listen(lights)
    lights.show([Light(0, "ready")])
    lights.show([Light(0, "ready")])
    assert len(sent) == 1


def test_many_lights_are_small_and_their_words_are_counted() -> None:
    lights = Lights()
    lights.show([Light(rank, "training" if rank else "waiting") for rank in range(64)])
    assert "63 ranks <i>training</i>" in lights.value
    assert lights.value.count('<span role="listitem"') == 2 + 64
    assert 'aria-label="rank 63: training"><b aria-hidden="true">●</b> 63</span>' in lights.value


def test_a_thousand_ranks_are_counted() -> None:
    lights = Lights()
    lights.show([Light(rank, "training" if rank % 4 else "waiting") for rank in range(1000)])
    assert LIMIT < 1000
    assert "750 ranks <i>training</i>" in lights.value
    assert "250 ranks <i>waiting</i>" in lights.value
    assert len(lights.value) < 1000
