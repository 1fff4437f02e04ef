"""What a run writes holds no secret, and says everything else."""

import json
import time
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from higgs_audio_trainer.redaction import REDACTED, Redactor, is_secret_name, redacted

CANARY = "zQ9canaryX7w"

SECRET_NAMES = """
    token hub_token hubToken HF_TOKEN hf-token hfToken HUGGING_FACE_HUB_TOKEN HF_TOKEN_2 auth_token authToken OAuthToken
    access_token accessToken ACCESSTOKEN refresh_token id_token session_token bearer_token bot_token user_token
    personal_access_token GITHUB_TOKEN github_token sas_token api_tokens access_tokens push_to_hub_token token_value
    api_key api-key apiKey APIKey apikey API_KEY x-api-key X-Api-Key WANDB_API_KEY openai_api_key api_keys api_key_1
    aws_secret_access_key secretAccessKey AWS_ACCESS_KEY_ID accessKeyId private_key privateKey ssh_key session_key
    encryption_key signing_key account_key AZURE_STORAGE_ACCOUNT_KEY shared_key client_key
    password Password PASSWORD db_password dbPassword PGPASSWORD passwd passphrase passcode pwd db_pwd smtp_pass pass
    password_hash password_b64 secret client_secret clientSecret secrets secret_value topsecret
    credential credentials aws_credentials GOOGLE_APPLICATION_CREDENTIALS creds
    auth basic_auth authorization Authorization proxy-authorization auth_header bearer cookie cookies Set-Cookie sas
    signature sig X-Amz-Signature X-Amz-Credential X-Goog-Signature dsn SENTRY_DSN connection_string connectionString
    AZURE_STORAGE_CONNECTION_STRING conn_str jwt settings.hub_token --hub_token
"""
OPEN_NAMES = """
    pad_token eos_token bos_token unk_token sep_token cls_token mask_token stop_token text_token audio_token
    image_token padToken PAD_TOKEN audio_bos_token audio_out_bos_token audio_stream_eos_token eos_token_str next_token
    per_token delay_token special_token decoder_start_token forced_bos_token placeholder_token silence_token
    pad_token_id eos_token_ids token_ids token_id token_type token_type_ids tokens max_tokens num_tokens max_new_tokens
    special_tokens additional_special_tokens num_input_tokens_seen include_num_input_tokens_seen tokenizer
    audio_tokenizer tokenizer_file tokenized token_loss
    key keys key_proj k_proj monkey keyboard label_key text_key sort_key primary_key num_key_value_heads key_value
    pass_rate forward_pass num_pass bypass compass passage passes
    author authors authored_by auth_type xauthority oauth_url SSH_AUTH_SOCK password_file secret_name
    signature_columns label_names design sigma sigmoid assign signal sass disconnect connections connection
    step lr seed warmup output_dir report_to run_name host epoch cookbook secretary credit accredited
"""


@pytest.mark.parametrize("name", SECRET_NAMES.split())
def test_names_of_secrets(name):
    """A setting of such a name is hidden, in whichever style the name is written."""
    assert is_secret_name(name)
    assert redacted({name: CANARY}) == {name: REDACTED}


@pytest.mark.parametrize("name", OPEN_NAMES.split())
def test_names_of_everything_else(name):
    """A vocabulary's token, a count of tokens and words that only look alike stay."""
    assert redacted({name: "plain"}) == {name: "plain"}
    assert redacted({name: 512}) == {name: 512}


def test_settings_are_copied_as_builtins():
    """Null, booleans, numbers and empty texts stay as they are; an unknown object becomes its text."""
    kept = {"hub_token": None, "use_auth_token": False, "token": "", "max_new_tokens": 8, "lr": 1e-4, "a": [1, (2,)]}
    assert redacted(kept) == kept | {"a": [1, [2]]}
    assert redacted({"object": object, "password": 123456}) == {"object": "<class 'object'>", "password": REDACTED}


def test_nested_settings_are_redacted():
    """Below a secret's name everything is hidden, in mappings and lists; elsewhere each name decides."""
    config = {
        "pad_token": "<|end|>",
        "nested": {"api_key": CANARY, "path": f"https://me:{CANARY}@host/x", "n": 1},
        "list": [f"s3://key:{CANARY}@bucket", {"token": CANARY}],
        "credentials": {"user": CANARY, "more": [CANARY, {"deep": CANARY}], "on": True},
        "tokens": {f"https://{CANARY}@host": 1},
    }
    clean = redacted(config)
    assert CANARY not in str(clean)
    assert clean["pad_token"] == "<|end|>"
    assert clean["nested"] == {"api_key": REDACTED, "path": f"https://{REDACTED}@host/x", "n": 1}
    assert clean["credentials"]["on"] is True


def test_arguments_are_redacted():
    """In a list of arguments the value after a secret flag is hidden, and the one that is joined to it."""
    arguments = ["--hub_token", CANARY, "--lr", "1e-4", f"--api-key={CANARY}", "--pad_token", "<pad>", "-token", CANARY]
    assert redacted(arguments) == [
        *("--hub_token", REDACTED, "--lr", "1e-4", f"--api-key={REDACTED}", "--pad_token", "<pad>"),
        *("-token", REDACTED),
    ]
    assert redacted({"auth": ["-x", CANARY]}) == {"auth": [REDACTED, REDACTED]}


LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
HIDDEN = {  # a text, and what is left of it
    f"https://user:{CANARY}@host/x": "https://[redacted]@host/x",
    f"https://{CANARY}@host/x": "https://[redacted]@host/x",
    f"postgresql+psycopg://u:{CANARY}@h:5432/d": "postgresql+psycopg://[redacted]@h:5432/d",
    f"s3://key:p@{CANARY}@bucket": "s3://[redacted]@bucket",
    f"proxy me:{CANARY}@proxy.local:8080 failed": "proxy me:[redacted]@proxy.local:8080 failed",
    f"https://h/x?a=1&token={CANARY}&b=2": "https://h/x?a=1&token=[redacted]&b=2",
    f"https://h/x?key={CANARY}#top": "https://h/x?key=[redacted]#top",
    f"https://h/?sig={CANARY}": "https://h/?sig=[redacted]",
    f"https://s3/x?X-Amz-Credential={CANARY}%2Fus&X-Amz-Signature={CANARY}&X-Amz-Expires=3": (
        "https://s3/x?X-Amz-Credential=[redacted]&X-Amz-Signature=[redacted]&X-Amz-Expires=3"
    ),
    f"https://h/?next=https%3A&access_token={CANARY}": "https://h/?next=https%3A&access_token=[redacted]",
    f"401 for hf_{LETTERS}": "401 for [redacted]",
    f"ghp_{LETTERS}.": "[redacted].",
    f"github_pat_11A_{LETTERS}": REDACTED,
    f"(sk-proj-{LETTERS})": "([redacted])",
    "AKIAIOSFODNN7EXAMPLE": REDACTED,
    f"glpat-{LETTERS}": REDACTED,
    "xoxb-1234-5678-abcdef": REDACTED,
    f"jwt: eyJ{LETTERS}.eyJ{LETTERS}.{LETTERS}": f"jwt: {REDACTED}",
    f"got eyJ{LETTERS}.eyJ{LETTERS}.{LETTERS} here": "got [redacted] here",
    "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4\n\nMIIE\n-----END RSA PRIVATE KEY-----": (
        "[redacted]-----END RSA PRIVATE KEY-----"
    ),
    f"Authorization: Bearer {CANARY}": "Authorization: [redacted]",
    f"Authorization: Basic {CANARY}==\nAccept: x": "Authorization: [redacted]\nAccept: x",
    f"curl -H 'authorization: token {CANARY}' x": "curl -H 'authorization: [redacted]' x",
    f"sent Bearer {CANARY}, got 401": "sent Bearer [redacted], got 401",
    f"Cookie: a={CANARY}; b={CANARY}\nHost: h": "Cookie: [redacted]\nHost: h",
    f"password={CANARY};server=x": "password=[redacted];server=x",
    f"password = {CANARY}": "password = [redacted]",
    f"{{'hub_token': '{CANARY}', 'n': 1}}": "{'hub_token': '[redacted]', 'n': 1}",
    f"{{'hub_token': '{CANARY} {CANARY}', 'n': 1}}": "{'hub_token': '[redacted]', 'n': 1}",
    f'{{"apiKey": "{CANARY}"}}': '{"apiKey": "[redacted]"}',
    f'"{{\\"apiKey\\": \\"{CANARY}\\"}}"': '"{\\"apiKey\\": \\"[redacted]\\"}"',
    f"login(token=b'{CANARY}', x=1)": "login(token=b'[redacted]', x=1)",
    f"train --hub_token {CANARY} --lr 1": "train --hub_token [redacted] --lr 1",
    f"url=https://h?token={CANARY}": "url=https://h?token=[redacted]",
    f"export HF_TOKEN={CANARY}": "export HF_TOKEN=[redacted]",
}


@pytest.mark.parametrize("text", HIDDEN)
def test_shapes_of_secrets(text):
    """A free text loses what looks like a secret, and nothing beside it; a second time changes nothing."""
    assert redacted(text) == HIDDEN[text]
    assert Redactor()(text) == HIDDEN[text]
    assert redacted(HIDDEN[text]) == HIDDEN[text]


@pytest.mark.parametrize(
    "text",
    [
        "git@github.com:org/repo.git",
        "ask bob@example.com",
        "https://huggingface.co/bosonai/higgs-audio-v2-tokenizer?revision=main",
        "pad_token=<|end|> max_new_tokens=512 key=value",
        "{'token': None, 'use_auth_token': False}",
        "f(token=None)",
        "q_proj,k_proj,v_proj,mlp.*",
        "step 10: loss 3.2, text_token: 5",
        "--hub_token: expected a str, got 5",
        "task-1234567890abcdef1234",
        "hf_hub_download of hf_transfer",
        "if token == other:",
        "the bearer understood everything",
        "console,jsonl:dir=~/logs,durability=record",
        "a token, and a password",
    ],
)
def test_texts_without_secrets(text):
    """Names without values, names of other things and prose stay."""
    assert redacted(text) == text


def test_known_values_are_hidden_wherever_they_stand():
    """A secret of the settings or the environment is hidden as itself, in a URL, in JSON and in a repr."""
    secret = 'p"s/w ö\\d'
    hide = Redactor({"extra": {"hub_token": secret}}, {"DB_PASSWORD": CANARY, "HOME": "/home/someone"})
    for form in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1], repr(secret)[1:-1]):
        assert hide(f"before {form} after") == "before [redacted] after"
    assert hide(f"a{CANARY}b /home/someone") == "a[redacted]b /home/someone"


def test_known_values_come_from_everything_that_is_hidden():
    """The password of a URL, the value after a flag and the lines of a key are known by themselves."""
    lines = "MIIEowIBAAKCAQEA0\nx\nabcdefghijklmnopqrst"
    hide = Redactor({"url": f"db://u:p%40{CANARY}@h", "argv": ["--token", "flagged-1"]}, {"SSH_KEY": lines})
    assert hide(f"no such password: 'p@{CANARY}'.") == f"no such password: '{REDACTED}'."
    assert hide(f"no user p@{CANARY}, flagged-1") == f"no user {REDACTED}, {REDACTED}"
    assert hide("at MIIEowIBAAKCAQEA0 x") == f"at {REDACTED} x"


def test_values_that_tell_nothing_are_not_known():
    """Short and common values would be found in the middle of words; PWD is a folder."""
    variables = {
        "A_TOKEN": "abc",
        "B_TOKEN": "true",
        "C_TOKEN": "default",
        "D_TOKEN": "",
        "E_TOKEN": "redacted",
        "F_TOKEN": "      ",
        "PASSWORD": "password",
        "PWD": "/srv/project",
        "OLDPWD": "/srv/other",
    }
    text = "abc true default redacted      /srv/project/x /srv/other password"
    assert Redactor({"hub_token": "none"}, variables)(text) == text


def test_longest_known_value_first():
    """Of two values that begin alike, the longer leaves no rest."""
    assert Redactor({"token": "abcdef-1", "secret": "abcdef-1-hij"})("abcdef-1-hij abcdef-1") == "[redacted] [redacted]"


@given(st.text(), st.text(), st.dictionaries(st.text(), st.text(), max_size=3))
def test_redactor_never_raises(secret, text, variables):
    """Whatever the text, the secret and the variables are, lone surrogates included, a text comes back."""
    hide = Redactor({"token": secret}, variables | {"A_TOKEN": "\udcff\ud800" + secret})
    assert isinstance(hide(f"{text}{secret}\udcff"), str)


@settings(max_examples=300)
@given(st.text(max_size=20), st.text(alphabet="abcXYZ019-_.!%+ü", min_size=8, max_size=20), st.text(max_size=20))
def test_known_values_never_come_through(before, secret, after):
    """No text around a known value lets it through."""
    assert secret not in Redactor({"token": secret})(before + secret + after)


REPEATED = [
    *("a", "a=", "a.", "a-", "a:", "a@", "://", "://a@", "token=", "token: ", "--token ", "hf_", "sk-", "sk-1", "eyJ-"),
    *(
        "eyJaaaaaaaa.",
        "-----BEGIN PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY",
        "-",
        "\\",
        '\\"',
        '"',
        'token="',
        "?key=",
    ),
    *("Bearer ", "bearer a", "cookie: ", " ", "\n", "token \t", "A1", "Ab", "a:b", "token:\\", "aTokenB_", "token='\\"),
]


def seconds(hide, text):
    """Time the hiding of secrets; the best of three, so that a busy machine doesn't count."""
    taken = []
    for _ in range(3):
        started = time.process_time()
        hide(text)
        taken.append(time.process_time() - started)
    return min(taken)


def takes_linear_time(hide, text):
    """Compare a text with an eighth of it: 64 times as long would be quadratic, 24 leave room for noise."""
    return seconds(hide, text) < 24 * max(seconds(hide, text[: len(text) // 8]), 1e-3)


@pytest.mark.parametrize("unit", REPEATED)
def test_long_texts_take_linear_time(unit):
    """A text made to keep a pattern busy takes no minutes, by itself and after the beginning of a secret."""
    hide = Redactor({"token": CANARY}, {"A_TOKEN": "a=a=a=a=b", "B_TOKEN": "aaaaaaaaab"})
    text = unit * (160_000 // len(unit))
    assert takes_linear_time(hide, text)
    for begin in ("token='", "eyJaaaaaaaa.", "x://"):
        assert takes_linear_time(lambda part, begin=begin: hide(begin + part + "@"), text[:40_000])


def test_many_names_take_linear_time():
    """Thousands of different names take no minutes, and a long traceback neither."""
    assert takes_linear_time(Redactor(), " ".join(f"key{number}={number}" for number in range(15_000)))
    trace = '  File "x.py", line 12, in forward\n    logits = self.model(tokens, key=value)\n' * 1250
    hide = Redactor({"token": CANARY}, {"A_TOKEN": "b" * 40})
    assert hide(trace) == trace
    assert takes_linear_time(hide, trace)
