"""Looks of a session: undo, redo, and what is forgotten."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from space_parts import domain, visitor

from refinestyle_hub.inversion.inversion import Inversion
from space import limits
from space.session import Look, Subject


def face(found: bool = True) -> Subject:
    return Subject.of(Inversion(torch.zeros(3, 5)), np.zeros((8, 8, 3), np.uint8), None, found)


def test_undo_and_redo_go_through_all_looks() -> None:
    session = visitor()
    looks = [Look(0), Look(0, {"smile": 1.0}), Look(0, {"smile": 1.0}, {"ink": 0.5}), Look(7)]
    for look in looks[1:]:
        session.put(look)
    session.put(looks[-1])  # nothing new
    for look in looks[-2::-1]:
        session.undo()
        assert session.look == look
    session.undo()
    assert session.look == looks[0]
    for look in looks[1:]:
        session.redo()
        assert session.look == look
    session.undo()
    session.put(Look(8))
    session.redo()  # what was undone is gone
    assert session.look == Look(8)


def test_the_looks_of_few_faces_and_no_more_than_a_number_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    session, faces = visitor(), [face() for _ in range(limits.FACES + 2)]
    for one in faces:
        session.put(Look(one))
        session.put(Look(one, {"smile": 1.0}))
    kept = {look.source for look in [*session.past, session.look]}
    assert kept == {0, *faces[-limits.FACES :]}  # what is drawn costs nothing
    monkeypatch.setattr(limits, "HISTORY", 3)
    for seed in range(9):
        session.put(Look(seed))
    assert [look.source for look in session.past] == [5, 6, 7]


def test_a_first_likeness_that_was_given_up_pushes_out_no_face_that_was_found() -> None:
    session, faces = visitor(), [face() for _ in range(limits.FACES)]
    for one in faces:
        session.put(Look(one))
    likenesses = [face(found=False) for _ in range(3)]
    for one in likenesses:
        session.put(Look(one))
    assert [look.source for look in session.past] == [0, *faces]  # and of likenesses, the newest alone
    session.put(Look(7))
    assert [look.source for look in session.past] == [0, *faces, likenesses[-1]]
    session.undo()
    better = face()
    session.exchange(likenesses[-1], better)  # now it is a face like the others
    assert [look.source for look in session.past] == [0, *faces[1:]]
    assert session.look == Look(better)


def test_a_better_face_takes_the_place_of_the_first_in_all_looks() -> None:
    session, first, better = visitor(), face(), face()
    session.put(Look(first))
    session.put(Look(first, {"smile": 1.0}))
    session.undo()
    session.exchange(first, better)
    assert session.look == Look(better)
    assert session.past == [Look(0)]
    assert session.future == [Look(better, {"smile": 1.0})]


def test_a_domain_that_is_removed_is_in_no_look_any_more() -> None:
    session = visitor()
    session.shelf.add("mine", domain(1))
    session.put(Look(0, {}, {"mine": 1.0}))
    session.put(Look(0, {"smile": 1.0}, {"mine": 1.0, "ink": 0.5}))
    session.forget("mine")
    assert session.look == Look(0, {"smile": 1.0}, {"ink": 0.5})
    assert not any("mine" in look.domains for look in [*session.past, *session.future])
    assert not session.shelf.domains


def test_each_session_is_its_own_and_shares_what_never_changes() -> None:
    first = visitor()
    first.put(Look(face()))
    second = copy.deepcopy(first)  # as Gradio makes one for each visitor
    assert second.look.source is first.look.source
    second.shelf.add("mine", domain(1))
    second.put(Look(3))
    assert first.look.subject is not None
    assert not first.shelf.domains
