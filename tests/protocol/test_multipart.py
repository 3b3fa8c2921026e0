"""A form is read for its names, and changed in its model alone."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from its_proxy.codesign.errors import RequestError
from its_proxy.protocol.multipart import read_form

TYPE = "multipart/form-data; boundary=XX"
AUDIO = b"RIFF\x00\r\n\xff--X\r\n"


def part(name: str, value: bytes, more: str = "") -> bytes:
    return b'--XX\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n' % (name.encode(), more.encode(), value)


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--XX--\r\n"


FILE = part("file", AUDIO, '; filename="a.wav"\r\nContent-Type: audio/wav')


def test_fields_and_files_are_told_apart():
    read = read_form(form(part("model", b"whisper"), FILE, part("language", "né".encode())), TYPE)
    assert read.names == ("model", "file", "language")
    assert (read.text("model"), read.text("language"), read.text("file")) == ("whisper", "né", None)


def test_only_the_models_own_bytes_change():
    data = form(FILE, part("model", b"whisper"), part("prompt", b"whisper"))
    assert read_form(data, TYPE).with_text("model", "large-v3") == form(
        FILE, part("model", b"large-v3"), part("prompt", b"whisper")
    )


@pytest.mark.parametrize("boundary", ["XX", '"XX"'])
def test_a_boundary_may_stand_in_quotes(boundary):
    assert read_form(form(part("model", b"m")), f"Multipart/Form-Data; boundary={boundary}").text("model") == "m"


def test_lists_may_repeat_their_name():
    listed = part("timestamp_granularities[]", b"word")
    assert read_form(form(part("model", b"m"), listed, listed), TYPE).text("model") == "m"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"--XX--\r\n",
        b"x" + form(part("model", b"m")),
        form(part("model", b"m"))[:-8],
        form(part("model", b"m"), part("model", b"other")),
        form(part("model", b"m"), part("model", b"other", '; filename="x"')),
        form(b"--XX\r\nContent-Type: text/plain\r\n\r\nm\r\n"),
        form(b'--XX\r\nContent-Disposition: form-data; name="a"; name="b"\r\n\r\nm\r\n'),
        form(part("model", b"m")).replace(b"--XX--", b"--XXY--"),
        form(part("model", b"\xff")),
        form(*(part(f"field{number}", b"") for number in range(70))),
        form(b"--XX\r\n" + b"a: b\r\n" * 2000 + b'Content-Disposition: form-data; name="model"\r\n\r\nm\r\n'),
    ],
)
def test_what_is_no_form_is_refused(data):
    with pytest.raises(RequestError):
        read_form(data, TYPE).text("model")


@pytest.mark.parametrize(
    "head",
    [
        b'Content-Disposition: form-data; name="x"; name=model',
        b'Content-Disposition: form-data; name="x"; name ="model"',
        b"Content-Disposition: form-data; name=\"x\"; name*=utf-8''model",
        b'Content-Disposition: form-data; name="x"; name*0="mo"; name*1="del"',
        b'Content-Disposition: form-data; name="x"\r\nContent-Disposition: attachment; name="model"',
        b'Content-Disposition: form-data; name="x"\r\n ; name="model"',
        b'\r\nContent-Disposition: form-data; name="x"',
        b'Content-Disposition: form-data; name="x" y',
        b'Content-Disposition: form-data; y="; name="x"',
        b'Content-Disposition: form-data; y="\\"; name="x"',
        b'X: y\nContent-Disposition: form-data; name="model"\r\nContent-Disposition: form-data; name="x"',
        b'Content-Disposition: form-data; name="x"\r\nContent-Transfer-Encoding: base64',
    ],
)
def test_a_part_that_others_could_take_for_the_model_is_refused(head):
    with pytest.raises(RequestError):
        read_form(form(part("model", b"m"), b"--XX\r\n" + head + b"\r\n\r\nother\r\n"), TYPE)


@pytest.mark.parametrize(
    "more",
    [
        ';filename="a.wav"',
        '; filename="a\\"b.wav"',
        "; filename=a.wav",
        "; filename*=UTF-8''n%C3%A9.wav ;",
        '; x="a;b"; filename=""',
    ],
)
def test_files_are_named_in_every_usual_way(more):
    read = read_form(form(part("file", AUDIO, more), part("model", b"m")), TYPE)
    assert (read.names, read.text("file"), read.text("model")) == (("file", "model"), None, "m")


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\n\n"])
def test_a_boundary_behind_half_a_line_end_is_refused(end):
    hidden = part("model", b"other").replace(b"\r\n", b"\n")
    with pytest.raises(RequestError):
        read_form(form(part("model", b"m"), part("prompt", b"x" + end + hidden)), TYPE)


@pytest.mark.parametrize("how", ["binary", "8bit", "7BIT "])
def test_a_part_may_say_that_it_is_as_it_is(how):
    head = f'Content-Disposition: form-data; name="model"\r\nContent-Transfer-Encoding: {how}'
    assert read_form(form(b"--XX\r\n" + head.encode() + b"\r\n\r\nm\r\n"), TYPE).text("model") == "m"


@pytest.mark.parametrize("content_type", ["", "application/json", "multipart/form-data", f"{TYPE}; boundary=YY"])
def test_another_content_type_is_refused(content_type):
    with pytest.raises(RequestError):
        read_form(form(part("model", b"m")), content_type)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data):
    for body in (data, form(part("model", data)), part("model", b"m") + data):
        with suppress(RequestError):
            assert read_form(body, TYPE).names
