"""The secrets of one data directory, made at the first start and kept for the next."""

import json
import secrets
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from infra.local.program import StackError, write_private


def _token() -> str:
    return secrets.token_hex(20)


@dataclass(frozen=True)
class Credentials:
    """What the embedded stack's doors open to.

    Letters and digits alone, so that none needs quoting in a URL, a shell or a configuration file.

    Attributes:
        api_key: of the tenant `local`; "" until one was made.
    """

    redis_password: str = field(default_factory=_token, repr=False)
    s3_access_key: str = field(default_factory=lambda: f"RT{secrets.token_hex(9).upper()}")
    s3_secret_key: str = field(default_factory=_token, repr=False)
    flower_user: str = "retouch"
    flower_password: str = field(default_factory=_token, repr=False)
    api_key: str = field(default="", repr=False)

    def with_api_key(self, api_key: str) -> "Credentials":
        """The same with another API key."""
        return replace(self, api_key=api_key)

    def save(self, path: Path) -> None:
        """Write them to a file of mode 0600."""
        write_private(path, json.dumps(asdict(self), indent=2) + "\n")


def load_credentials(path: Path) -> Credentials:
    """The credentials kept at `path`; made and written there where there are none.

    Raises:
        StackError: the file is not what `save` wrote. The data is locked with these passwords: making others would
            only hide the fault.
    """
    if not path.exists():
        made = Credentials()
        made.save(path)
        return made
    try:
        return Credentials(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise StackError(f"{path} cannot be read ({error}): restore it, or remove the data directory") from error
