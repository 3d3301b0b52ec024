"""A model and its card go to a hub: a server on this machine takes the place of the real one."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from fakes import tiny_model
from huggingface_hub import constants


class Hub(BaseHTTPRequestHandler):
    """The answers of the hub to an upload; what was committed stands in ``files``."""

    files: dict[str, bytes]

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        base = f"http://{self.headers['Host']}"
        answer: dict[str, Any] = {"url": f"{base}/user/tiny", "errors": [], "warnings": []}
        if "/preupload/" in self.path:
            answer["files"] = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(text)["files"]
            ]
        if "/commit/" in self.path:
            for line in map(json.loads, text.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.files[line["value"]["path"]] = content
            answer |= {"commitUrl": f"{base}/user/tiny/commit/{'a' * 40}", "commitOid": "a" * 40}
        self._answer(answer)

    def do_GET(self) -> None:
        self._answer({"id": "user/tiny", "siblings": [], "sha": "a" * 40})

    def _answer(self, found: dict[str, Any]) -> None:
        body = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *parts: Any) -> None:
        """Nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    Hub.files = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield Hub.files
    server.shutdown()
    server.server_close()


def test_a_model_is_uploaded_with_weights_config_and_card(hub: dict[str, bytes], tmp_path) -> None:
    model = tiny_model()
    card = "---\nlicense: mit\n---\n# Tiny\n"
    model.save_pretrained(
        tmp_path, model_card=card, push_to_hub=True, repo_id="user/tiny", token="hf_x"
    )
    assert json.loads(hub["config.json"])["model_type"] == "imadarem"
    assert hub["model.safetensors"] == (tmp_path / "model.safetensors").read_bytes()
    assert hub["README.md"].decode() == card
