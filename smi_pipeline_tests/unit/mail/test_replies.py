"""Which refusals of mail servers are about the shop, in the words of servers that people use."""

import pytest

from smi_pipeline.adapters.mail.replies import is_about_us

OURS = [
    (535, "5.7.139 Authentication unsuccessful, basic authentication is disabled."),  # Exchange
    (534, "5.7.9 Application-specific password required."),  # Gmail
    (530, "5.7.0 Authentication Required."),
    (525, "5.7.1 Unauthorized IP address"),  # Brevo
    (550, "5.7.1 Your account has been suspended"),
    (550, "Your email account has been temporarily suspended due to suspicious activity"),
    (554, "5.7.0 Account suspended"),
    (554, "Message rejected: Sending paused for this account."),  # Amazon SES
    (454, "Throttling failure: Daily message quota exceeded."),
    (554, "Message rejected: Email address is not verified. The following identities failed the check in region X"),
    (550, "5.4.5 Daily user sending limit exceeded."),  # Gmail
    (550, "5.4.5 Daily sending quota exceeded"),
    (550, "5.7.60 SMTP; Client does not have permissions to send as this sender"),  # Exchange
    (554, "5.2.252 SendAsDenied; [address] not allowed to send as [address]"),
    (550, "5.1.8 Access denied, bad outbound sender AS(42004)"),
    (550, "5.1.8 <[address]>: Sender address rejected: Domain not found"),  # Postfix
    (553, "5.7.1 <[address]>: Sender address rejected: not owned by user [address]"),
    (554, "5.7.1 <[address]>: Recipient address rejected: You have exceeded your Outmail quota."),
    (554, "5.7.1 <[address]>: Relay access denied"),
    (554, "5.7.1 <shop.example[192.0.2.1]>: Client host rejected: Access denied"),
    (450, "4.7.1 <shop>: Helo command rejected: Host not found"),
    (450, "4.2.1 Peak SMTP relay limit exceeded for customer."),  # Google
    (550, "The from address does not match a verified Sender Identity."),  # SendGrid
    (451, "Authentication failed: Maximum credits exceeded"),
    (502, "5.7.0 Your SMTP account is not yet activated."),  # Brevo
    (550, "relay not permitted"),  # Exim
    (503, "5.5.1 Please authenticate first"),
    (550, "5.7.1 Sending limit reached for today"),
    (552, "Quota exceeded"),
]

NOT_OURS = [
    (550, "5.1.1 <[address]>: Recipient address rejected: User unknown in local recipient table"),
    (550, "5.1.1 The email account that you tried to reach does not exist."),
    (550, "5.2.1 The email account that you tried to reach is disabled."),
    (452, "4.2.2 The email account that you tried to reach is over quota."),
    (552, "5.2.2 This message is larger than the current system limit or the recipient's mailbox is full."),
    (552, "5.2.2 mailbox quota exceeded"),
    (550, "5.1.1 <[address]>: Recipient address rejected: user account disabled"),
    (450, "4.2.0 <[address]>: Recipient address rejected: Greylisted, see [link]"),
    (451, "4.7.1 Greylisting in action, please come back later"),
    (450, "4.2.1 The user you are trying to contact is receiving mail too quickly."),
    (552, "5.3.4 Message size exceeds fixed limit"),
    (554, "5.7.1 Message rejected as spam by content filtering"),
    (550, "5.7.1 Service unavailable; client [192.0.2.1] blocked using zen.spamhaus.org"),
    (553, "5.1.3 The recipient address is not a valid RFC-5321 address."),
    (421, "4.3.2 Service shutting down"),
    (550, "User account is over quota"),
    (452, "4.3.1 Insufficient system storage"),
]


@pytest.mark.parametrize(("code", "text"), OURS)
def test_a_refused_login_sender_account_or_quota_is_the_shops(code: int, text: str) -> None:
    assert is_about_us(code, text)


@pytest.mark.parametrize(("code", "text"), NOT_OURS)
def test_a_refused_recipient_content_or_moment_is_not_the_shops(code: int, text: str) -> None:
    assert not is_about_us(code, text)
