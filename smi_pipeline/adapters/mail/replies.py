"""Tell from a refusal of the mail server whether it is about the shop, whatever the mail, and whoever gets it.

Servers name the sender, the account and its quota at any stage: Postfix checks the sender only when it knows the
recipient, and Exchange and Amazon SES when they have the content. The examples of `unit/mail/test_replies.py` are
theirs.
"""

import re

ACCOUNT_CODES = frozenset({525, 530, 534, 535, 538})
"""Codes of RFC 4954 and RFC 5248 for a login that is missing, refused or disabled."""

_ENHANCED = re.compile(r"(?<![\d.])[45]\.(\d{1,3}\.\d{1,3})(?!\.?\d)")  # not part of an address of IPv4
_OF_THE_SENDER = re.compile(r"1\.[78]|1\.90|7\.(8|9|13|2[0-7]|57|60|68|139|50[1238]|509|511|7\d\d)")
_OF_THE_MAILBOX = frozenset({"1.1", "1.2", "1.3", "1.6", "1.10", "2.1", "2.2"})

_OURS = re.compile(
    r"""
    sender\ (address\ |domain\ |identity\ |mail\ )?(is\ |was\ )?(rejected|denied|refused|blocked|invalid|un\w+
        |verify\ fail|not\ (allowed|verified|authori[sz]ed|permitted|owned))
    | \b(bad|banned|invalid|un(authori[sz]ed|verified|configured|registered))\ (outbound\ |sending\ )?(sender|domain)
    | \bunauthenticated\b | not\ (a\ )?local\ sender
    | send\ ?as\ ?(denied|this|the) | send\ on\ behalf | not\ owned\ by
    | (from|sender)\b.{0,60}\b(must\ (match|exist)|verified\ sender
        |not\ (verified|allowed|authori[sz]ed|match|valid|one\ of\ your))
    | not\ (allowed|authori[sz]ed|permitted)\ to\ (send|perform)\b(?!\ (e?-?mails?\ |messages?\ )?to\b)
    | address\ is\ not\ verified | failed\ the\ check\ in\ region | for\ test\ purposes\ only
    | relay(ing)?\ (access\ )?(is\ )?(denied|disallowed|prohibited|not\ (allowed|permitted))
    | (unable|permitted)\ to\ relay | allowed\ rcpthosts
    | \bclient\ (host\ )?(\[[^\]]*\]\ )?(rejected|blocked|(was\ )?not\ authenticated) | \bhelo\b
    | \b(your|this|sending)\ ip\b | \b(spf|dkim|dmarc)\b
    | \bauth(entication)?\ (is\ )?(required|needed) | (must|please)\ (first\ )?(authenticate|log\ ?in) | not\ logged\ in
    | \binvalid\ credentials | \bcredentials\ (are\ )?invalid
    | must\ issue\ a\ starttls
    | \byour\b.{0,40}\b(account|quota|plan|subscription|credits?|allowance)\b
    | \b(reach\w*|over|exceed\w*)\ your\b | \b(subscription|trial)\ (has\ )?expired
    | \b(sending|send|outgoing|outbound|submission|hourly|daily|monthly|messages?|rate|relay)\ ([a-z]+\ )?
      (quota|limits?|credits)\b.{0,20}\b(exceed|reach|used)
    | \bexceed\w*\ .{0,30}\b(sending|outgoing|outbound|(per\ |\b)(hour|day|month))\b
    | \btoo\ many\ (e?-?mails|messages|recipients)\b.{0,30}\b(sent|hour|day|today|account)\b
    | sending\ (is\ |has\ been\ )?(paused|suspended|disabled|blocked|denied) | sending\ activity
    | \b(outgoing|outbound)\ e?-?mail\b.{0,60}\b(suspended|disabled|blocked) | outboundspam
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""Words that name the sender or the account, whoever is the recipient."""

_PERHAPS_OURS = re.compile(
    r"\b(account|domain|user|service|smtp)\b.{0,30}\b(suspended|deactivated|disabled|locked|blocked|terminated"
    r"|not (yet )?activated)|\bquota\b|\bcredits\b",
    re.IGNORECASE,
)
_OF_THE_RECIPIENT = re.compile(
    r"recipient|mailbox|inbox|tried to reach|trying to contact|cannot be delivered|over quota|storage|disk|no such",
    re.IGNORECASE,
)


_OF_THE_MOMENT = re.compile(r"connections|concurrent|sessions", re.IGNORECASE)


def is_about_us(code: int, text: str) -> bool:
    """Return whether a 4xx or 5xx is about the shop's login, sender, account or quota, and so hits every mail, for
    longer than a moment."""
    if code < 500 and _OF_THE_MOMENT.search(text):
        return False
    enhanced = set(_ENHANCED.findall(text))
    if code in ACCOUNT_CODES or any(map(_OF_THE_SENDER.fullmatch, enhanced)) or _OURS.search(text):
        return True
    if enhanced & _OF_THE_MAILBOX or _OF_THE_RECIPIENT.search(text):
        return False
    return bool(_PERHAPS_OURS.search(text))
