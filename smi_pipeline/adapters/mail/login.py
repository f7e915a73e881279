"""Log in to an SMTP server. `smtplib` encodes names and passwords in ASCII and fails for any other."""

import base64
import hmac
import smtplib

MECHANISMS = ("CRAM-MD5", "PLAIN", "LOGIN")
"""In the order in which they are tried, as far as the server offers them."""

_LOGGED_IN = (235, 503)  # 503: it already was


def log_in(smtp: smtplib.SMTP, user: str, password: str) -> None:
    """Log in, with name and password in UTF-8 (RFC 4616).

    Raises SMTPAuthenticationError with the last definite answer, and SMTPNotSupportedError if the server offers no
    login by password.
    """
    offered = smtp.esmtp_features.get("auth", "").upper().split()
    possible = [mechanism for mechanism in MECHANISMS if mechanism in offered]
    if not possible:
        raise smtplib.SMTPNotSupportedError(f"a login by password; it offers {', '.join(offered) or 'none at all'}")
    refused: tuple[int, bytes] | None = None
    # Some servers offer what does not work for every account.
    for mechanism in possible:
        try:
            code, answer = _exchange(smtp, mechanism, user.encode(), password.encode())
        except smtplib.SMTPServerDisconnected:
            # Servers hang up on a wrong password: it is the reason, not the lost connection.
            if refused is None:
                raise
            break
        if code in _LOGGED_IN:
            return
        if refused is None or code // 100 == 5:
            refused = code, answer
    assert refused is not None
    raise smtplib.SMTPAuthenticationError(*refused)


def _exchange(smtp: smtplib.SMTP, mechanism: str, user: bytes, password: bytes) -> tuple[int, bytes]:
    if mechanism == "PLAIN":
        return smtp.docmd("AUTH", "PLAIN " + _coded(b"\0" + user + b"\0" + password))
    code, answer = smtp.docmd("AUTH", mechanism)
    if mechanism == "CRAM-MD5" and code == 334:
        try:
            digest = hmac.new(password, base64.b64decode(answer), "md5").hexdigest()
        except ValueError:  # an unreadable challenge, or a system whose policy forbids MD5
            return smtp.docmd("*")  # RFC 4954: gives this exchange up, and another mechanism can follow
        return smtp.docmd(_coded(user + b" " + digest.encode()))
    for reply in (user, password):
        if code == 334:
            code, answer = smtp.docmd(_coded(reply))
    return code, answer


def _coded(reply: bytes) -> str:
    return base64.b64encode(reply).decode()
