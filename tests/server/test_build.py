"""Configurations that settings cannot judge alone are refused with one line, before anything is served."""

import pytest

from its_proxy.codesign.errors import ConfigError
from its_proxy.server.build import build_context
from its_proxy.settings import load_settings
from tests.serving import manifest, write_checkpoint


def refused(settings):
    with pytest.raises(ConfigError) as caught:
        build_context(load_settings(None, {}, {"strict": False, **settings}), {})
    assert "\n" not in str(caught.value)
    return caught.value.message


def test_embedded_models_cannot_share_a_name_and_so_their_weights(tmp_path):
    models = {
        name: {"checkpoint": write_checkpoint(tmp_path / name, manifest(name)), "served_name": "same"}
        for name in ("none", "random")
    }
    assert "served_name: the embedded engine" in refused({"models": models})


def test_several_upstreams_without_models_leave_nobody_out_silently():
    upstreams = {"one": {"url": "http://127.0.0.1:1/v1"}, "two": {"url": "http://127.0.0.1:2/v1"}}
    assert "one, two and no models" in refused({"upstreams": upstreams})


def test_an_ensemble_whose_members_answer_in_different_kinds_is_refused(tmp_path):
    models = {
        kind: {"checkpoint": write_checkpoint(tmp_path / kind, manifest("none")), "vote": {"answer": kind}}
        for kind in ("boxed", "number")
    }
    ensembles = {"both": {"members": ["boxed", "number"]}}
    assert "different kinds: boxed, number" in refused({"models": models, "ensembles": ensembles})
