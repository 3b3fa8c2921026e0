"""What is wrong with a certificate or its key is one clear line that names the file."""

import subprocess
from pathlib import Path

import aiohttp
import pytest

from its_proxy.codesign.errors import ConfigError
from its_proxy.server.tls import tls_context, tls_of
from its_proxy.settings import load_settings
from tests.certificates import make_certificate
from tests.command import command, serve_command


def refusal(cert: Path, key: Path) -> str:
    with pytest.raises(ConfigError) as refused:
        tls_context(cert, key)
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_a_missing_file_is_named(tmp_path):
    made = make_certificate(tmp_path)
    assert refusal(tmp_path / "none.pem", made.key) == f"tls_cert: {tmp_path}/none.pem: no such file or directory"
    assert refusal(made.cert, tmp_path / "none.pem") == f"tls_key: {tmp_path}/none.pem: no such file or directory"


def test_what_is_no_pem_is_named(tmp_path):
    made = make_certificate(tmp_path)
    (tmp_path / "no.pem").write_bytes(b"\x30\x82\x01")
    assert refusal(tmp_path / "no.pem", made.key).startswith(f"tls_cert: {tmp_path}/no.pem is not a PEM file")


def test_the_key_of_another_certificate_is_named(tmp_path):
    made, other = make_certificate(tmp_path), make_certificate(tmp_path, "other")
    assert f"{other.key} does not belong to the certificate" in refusal(made.cert, other.key)


def test_two_files_in_the_wrong_order_are_refused(tmp_path):
    made = make_certificate(tmp_path)
    assert refusal(made.key, made.cert).startswith("tls_key: ")


def test_an_encrypted_key_is_refused_and_nobody_is_asked(tmp_path):
    made = make_certificate(tmp_path)
    locked = tmp_path / "locked.pem"
    subprocess.run(
        f"openssl ec -aes256 -passout pass:secret -in {made.key} -out {locked}".split(), check=True, capture_output=True
    )
    assert "is encrypted (give a key without a pass phrase)" in refusal(made.cert, locked)


def test_without_files_plain_http_is_spoken():
    assert tls_of(load_settings(None, {}, {})) is None


@pytest.mark.parametrize(("given", "missing"), [("tls_cert", "tls_key"), ("tls_key", "tls_cert")])
def test_one_file_of_the_two_is_refused(given, missing):
    with pytest.raises(ConfigError, match=f"--{given.replace('_', '-')}: needs {missing} beside it"):
        load_settings(None, {}, {given: "server.pem"})


def test_a_path_in_a_file_begins_where_the_file_is(tmp_path):
    file = tmp_path / "its.yaml"
    file.write_text("tls_cert: server.pem\ntls_key: keys/server.pem\n")
    settings = load_settings(file, {}, {})
    assert (settings.tls_cert, settings.tls_key) == (tmp_path / "server.pem", tmp_path / "keys/server.pem")


def test_a_variable_names_a_file_as_well():
    variables = {"ITS_PROXY_TLS_CERT": "a.pem", "ITS_PROXY_TLS_KEY": "b.pem"}
    assert load_settings(None, variables, {}).tls_cert == Path("a.pem")


async def test_a_server_with_a_bad_key_ends_with_one_line(tmp_path):
    made = make_certificate(tmp_path)
    ended = await command("serve", "--upstream", "http://127.0.0.1:9/v1", "--tls-cert", made.cert, "--tls-key",
                          tmp_path / "none.pem")  # fmt: skip
    assert ended.code != 0
    assert ended.err == f"Error: tls_key: {tmp_path}/none.pem: no such file or directory\n"


async def test_a_server_with_a_certificate_speaks_tls_and_says_so(tmp_path):
    made = make_certificate(tmp_path)
    flags = ("--upstream", "http://127.0.0.1:9/v1", "--model", "model", "--tls-cert", made.cert, "--tls-key", made.key)
    async with serve_command(*flags) as server, aiohttp.ClientSession() as http:
        assert server.url.startswith("https://127.0.0.1:")
        async with http.get(server.url.removesuffix("/v1") + "/livez", ssl=made.trust) as reply:
            assert reply.status == 200
