"""A real mail server and a real webhook on loopback ports, which keep what they are given."""

from __future__ import annotations

import email
import email.policy
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any

from aiosmtpd.controller import Controller

from ztfds.operations.machine import free_port


@dataclass
class Post:
    """What arrived, and where it is taken.

    Attributes
    ----------
    smtp, webhook : str
        Addresses: host:port, and a URL.
    mails : list of EmailMessage
    calls : list of dict
    refuse : str
        Answer of the mail server instead of taking a mail; empty: it takes it.
    """

    smtp: str = ""
    webhook: str = ""
    mails: list[EmailMessage] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    refuse: str = ""

    @property
    def subjects(self) -> list[str]:
        """Subject lines in the order of arrival."""
        return [str(mail["subject"]).strip() for mail in self.mails]

    async def handle_DATA(self, server: object, session: object, envelope: Any) -> str:
        """Take a mail (the mail server calls this)."""
        if self.refuse:
            return self.refuse
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(mail, EmailMessage)
        mail["X-Receivers"] = ", ".join(envelope.rcpt_tos)
        self.mails.append(mail)
        return "250 taken"


@contextmanager
def post_office() -> Iterator[Post]:
    """Both servers, stopped at the end."""
    post = Post()

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            post.calls.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing on the terminal."""

    mail = Controller(post, hostname="127.0.0.1", port=free_port(set()))
    hook = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    mail.start()
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    post.smtp, post.webhook = f"127.0.0.1:{mail.port}", f"http://127.0.0.1:{hook.server_port}/"
    try:
        yield post
    finally:
        mail.stop()
        hook.shutdown()
        hook.server_close()
