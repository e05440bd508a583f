"""What lies in the tables, opened if it is sealed; with the keys of the running test.

Needs no models: the chaos suite reads tables, too, and is no Django project.
"""

import json
import zlib
from typing import Any

from whatsapp.services import sealing


def opened_creds(company_id: str, value: Any) -> Any:
    """Return creds as they were before they were sealed, if they were."""
    return json.loads(sealing.unseal_creds(company_id, json.dumps(value)))


def opened_key(company_id: str, key_type: str, key_id: str, value: Any) -> Any:
    """Return a key as it was before it was sealed, if it was."""
    stored = json.dumps({key_id: value})
    return json.loads(sealing.unseal_keys_of(company_id, key_type, stored))[key_id]


def opened_archive(
    company_id: str, kid: str, payload: bytes
) -> tuple[Any, dict[tuple[str, str], Any]]:
    """Return creds and keys in an archived link, opened if they are sealed."""
    if kid:
        payload = sealing.unseal_bytes(company_id, sealing.ARCHIVE, kid, payload)
    content = json.loads(zlib.decompress(payload))
    return opened_creds(company_id, content["creds"]), {
        (key["t"], key["i"]): opened_key(company_id, key["t"], key["i"], key["v"])
        for key in content["keys"]
    }
