"""Telling people: one message by webhook and by mail, to whom the settings name."""

from __future__ import annotations

import json
import logging
import smtplib
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any

from ztfds.survey.errors import ServiceDown

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Notifier:
    """Who is told, and how.

    Attributes
    ----------
    webhook : str
        Address that gets a POST of JSON; empty: none.
    mail_to : tuple of str
        Addresses of people; empty: none.
    smtp : str
        Mail server, ``host:port``.
    mail_from : str
        Sender.
    timeout_s : float
        Longest wait for either, s.
    """

    webhook: str = ""
    mail_to: tuple[str, ...] = ()
    smtp: str = "127.0.0.1:25"
    mail_from: str = "ztfds@localhost"
    timeout_s: float = 10.0

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Notifier:
        """From plain settings: ``webhook``, ``mail_to`` (comma-separated), ``smtp``, ``mail_from``."""
        people = tuple(part.strip() for part in str(settings.get("mail_to") or "").split(",") if part.strip())
        return cls(
            str(settings.get("webhook") or ""),
            people,
            str(settings.get("smtp") or cls.smtp),
            str(settings.get("mail_from") or cls.mail_from),
        )

    def tell(self, subject: str, content: Mapping[str, Any], html: str | None = None) -> bool:
        """Send one message on every way that is set up; one that fails is said in the log and keeps none of the others from being tried.

        Parameters
        ----------
        subject : str
            One line.
        content : mapping
            Sent to the webhook as JSON, and by mail as text.
        html : str, optional
            A page to send by mail as well.

        Returns
        -------
        bool
            False where nobody is named.

        Raises
        ------
        ServiceDown
            No way that is set up worked.
        """
        failed = self.attempt(subject, content, html)
        troubles = "; ".join(f"{way}: {trouble}" for way, trouble in failed.items() if trouble)
        if failed and all(failed.values()):
            raise ServiceDown(f"nobody could be told of {subject!r}: {troubles}")
        if troubles:
            log.error("not everybody could be told of %r: %s", subject, troubles)
        return bool(failed)

    def attempt(self, subject: str, content: Mapping[str, Any], html: str | None = None) -> dict[str, str]:
        """Send as `tell` does; returns what went wrong by way (``webhook``, ``mail``), empty where it went well."""
        ways: dict[str, Callable[[], None]] = {}
        if self.webhook:
            ways["webhook"] = lambda: self._post({"text": subject, **content})
        if self.mail_to:
            ways["mail"] = lambda: self._mail(subject, content, html)
        return {way: _trouble(send) for way, send in ways.items()}

    def _post(self, content: Mapping[str, Any]) -> None:
        """POST JSON."""
        if not self.webhook.startswith(("http://", "https://")):
            raise ValueError("the webhook is not an http(s) address")
        body = json.dumps(content, default=str).encode()
        request = urllib.request.Request(self.webhook, body, {"Content-Type": "application/json"}, method="POST")
        with urllib.request.urlopen(request, timeout=self.timeout_s) as answer:
            answer.read()

    def _mail(self, subject: str, content: Mapping[str, Any], html: str | None) -> None:
        """One mail to all."""
        message = EmailMessage()
        message["Subject"], message["From"], message["To"] = subject[:200], self.mail_from, ", ".join(self.mail_to)
        message.set_content("\n".join([subject, "", *(f"{key}: {value}" for key, value in content.items())]))
        if html:
            message.add_alternative(html, subtype="html")
        host, _, port = self.smtp.partition(":")
        with smtplib.SMTP(host, int(port or 25), timeout=self.timeout_s) as server:
            server.send_message(message)


def _trouble(send: Callable[[], None]) -> str:
    """What went wrong when something was sent, empty where nothing did."""
    try:
        send()
    except (OSError, smtplib.SMTPException, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return ""
