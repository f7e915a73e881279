"""Log in to an SMTP server. `smtplib` encodes names and passwords in ASCII and fails for any other."""

import base64
import hmac
import smtplib

MECHANISMS = ("CRAM-MD5", "PLAIN", "LOGIN")
"""In the order in which they are tried, as far as the server offers them."""

_LOGGED_IN = (235, 503)  # 503: it already was


def log_in(smtp: smtplib.SMTP, user: str, password: str) -> None:
    """Log in, with name and password in UTF-8 (RFC 4616).

    Raises SMTPAuthenticationError with the answer to the last mechanism, and SMTPNotSupportedError if the server offers
    no login by password.
    """
    offered = smtp.esmtp_features.get("auth", "").upper().split()
    possible = [mechanism for mechanism in MECHANISMS if mechanism in offered]
    if not possible:
        raise smtplib.SMTPNotSupportedError(f"a login by password; it offers {', '.join(offered) or 'none at all'}")
    # Some servers offer what does not work for every account.
    for mechanism in possible:
        code, answer = _exchange(smtp, mechanism, user.encode(), password.encode())
        if code in _LOGGED_IN:
            return
    raise smtplib.SMTPAuthenticationError(code, answer)


def _exchange(smtp: smtplib.SMTP, mechanism: str, user: bytes, password: bytes) -> tuple[int, bytes]:
    if mechanism == "PLAIN":
        return smtp.docmd("AUTH", "PLAIN " + _coded(b"\0" + user + b"\0" + password))
    code, answer = smtp.docmd("AUTH", mechanism)
    if mechanism == "CRAM-MD5" and code == 334:
        digest = hmac.new(password, base64.b64decode(answer), "md5").hexdigest()
        return smtp.docmd(_coded(user + b" " + digest.encode()))
    for reply in (user, password):
        if code == 334:
            code, answer = smtp.docmd(_coded(reply))
    return code, answer


def _coded(reply: bytes) -> str:
    return base64.b64encode(reply).decode()
