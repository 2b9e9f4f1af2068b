"""What an exception of huggingface_hub means, in words a user can act on. No torch, and no huggingface_hub either.

Told by class name: the classes have moved between its versions, and the HTTP library under it has changed twice.
"""

import errno

_SENTENCES = {
    "GatedRepoError": "it is gated; accept its licence on the Hub, then run `hf auth login` or set HF_TOKEN",
    "DatasetNotFoundError": "no such data set, or it is private or gated; check the id, or run `hf auth login`",
    "RepositoryNotFoundError": "no such repository, or it is private; check the id, or run `hf auth login`",
    "DisabledRepoError": "the Hub has disabled it; choose another repository",
    "RevisionNotFoundError": "it has no such revision; give a branch, a tag or a commit of it, or none for `main`",
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set; unset it, or give a folder",
    "HFValidationError": "no Hub id looks like that; give org/name",
}
_UNREACHABLE = {"LocalEntryNotFoundError", "ConnectionError", "ConnectError", "ConnectTimeout", "ReadTimeout",
                "ReadError", "ProxyError", "SSLError", "RemoteProtocolError", "Timeout", "ChunkedEncodingError",
                "NetworkError", "ConnectTimeoutError"}  # fmt: skip
_STATUS = {
    401: "the Hub wants to know who asks; run `hf auth login` or set HF_TOKEN",
    403: "the Hub does not allow it; accept the repository's terms there, then run `hf auth login` with that account",
    404: "the Hub does not have it; check the id",
    429: "the Hub has had too many requests; wait a minute, or run `hf auth login`",
}


def hub_reason(error: BaseException) -> str:
    """Why the Hub did not give what was asked."""
    names = [kind.__name__ for kind in type(error).__mro__]
    for name in names:
        if name in _SENTENCES:
            return _SENTENCES[name]
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return _STATUS.get(status, f"the Hub answered with error {status}; try again later")
    if not _UNREACHABLE.isdisjoint(names):
        return "the Hub cannot be reached and it is not in the local cache; check the network, or give a folder"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full; free some space and ask again, which goes on where it stopped"
    return f"{names[0]}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
