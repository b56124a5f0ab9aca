"""The secrets of one data directory, generated at the first start and stored for the next."""

import json
import secrets
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from infra.local.program import StackError, write_private


def _token() -> str:
    return secrets.token_hex(20)


@dataclass(frozen=True)
class Credentials:
    """Passwords and keys of the local stack.

    They contain only letters and digits, so none needs quoting in a URL, a shell or a configuration file.

    Attributes:
        api_key: key of the tenant `local`; "" until one is created.
    """

    redis_password: str = field(default_factory=_token, repr=False)
    s3_access_key: str = field(default_factory=lambda: f"RT{secrets.token_hex(9).upper()}")
    s3_secret_key: str = field(default_factory=_token, repr=False)
    flower_user: str = "retouch"
    flower_password: str = field(default_factory=_token, repr=False)
    api_key: str = field(default="", repr=False)

    def with_api_key(self, api_key: str) -> "Credentials":
        """Return a copy with another API key."""
        return replace(self, api_key=api_key)

    def save(self, path: Path) -> None:
        """Write the credentials to a file with mode 0600."""
        write_private(path, json.dumps(asdict(self), indent=2) + "\n")


def load_credentials(path: Path) -> Credentials:
    """Load the credentials from `path`, or generate and save them if the file does not exist.

    Raises:
        StackError: the file is invalid. The stored data needs these passwords, so new ones would not help.
    """
    if not path.exists():
        credentials = Credentials()
        credentials.save(path)
        return credentials
    try:
        return Credentials(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise StackError(f"{path} cannot be read ({error}): restore it, or remove the data directory") from error
