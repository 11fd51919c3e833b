"""Batches on their way to a device, some ahead of the step that needs them."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator

import torch

from dtk.errors import ArgumentError

__all__ = ["as_device", "check_device", "on_device"]

Batch = dict[str, torch.Tensor]
Batches = Generator[Batch, None, None]


def as_device(device: torch.device | str) -> torch.device:
    """Understand the name of a device.

    Parameters
    ----------
    device : torch.device or str
        For example ``"cpu"`` or ``"cuda:1"``.

    Returns
    -------
    torch.device
        It need not be there.

    Raises
    ------
    ArgumentError
        If there is no such kind of device.
    """
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ArgumentError(f"device={device!r} is none: {reason}; pass 'cpu', 'cuda' or 'cuda:1'") from error


def check_device(device: torch.device) -> None:
    """Refuse a device that is not there.

    Parameters
    ----------
    device : torch.device
        Of any kind.

    Raises
    ------
    ArgumentError
        If torch cannot put a tensor there.
    """
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ArgumentError(f"device={str(device)!r} is not there: torch sees no GPU; pass device='cpu'")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:  # by kind of device
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise ArgumentError(f"device={str(device)!r} is not there: {reason}; pass device='cpu'") from error


def on_device(batches: Batches, device: torch.device, prefetch: int) -> Batches:
    """Move batches to a device; on the CPU they stay what they are.

    Parameters
    ----------
    batches : generator of dict of str to torch.Tensor
        On the CPU, each valid until the next one is asked for.
    device : torch.device
        Where to.
    prefetch : int
        Batches that are moved ahead of the one that is handed out, on CUDA.

    Returns
    -------
    generator of dict of str to torch.Tensor
        The batches there. Those of another device than the CPU stay valid.
    """
    if device.type == "cpu":
        return batches
    if device.type != "cuda":
        return ({name: tensor.to(device) for name, tensor in batch.items()} for batch in batches)
    return _on_cuda(batches, device, prefetch)


def _on_cuda(batches: Batches, device: torch.device, prefetch: int) -> Batches:
    """Copy batches on a stream of their own, beside the steps that compute."""
    stream = torch.cuda.Stream(device)
    ahead: deque[tuple[Batch, torch.cuda.Event]] = deque()
    copied: torch.cuda.Event | None = None
    try:
        for batch in batches:
            with torch.cuda.stream(stream):
                moved = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
            copied = stream.record_event()
            ahead.append((moved, copied))
            if len(ahead) > prefetch:
                yield _handed_out(*ahead.popleft(), device)
            copied.synchronize()  # asking for the next batch lets the readers overwrite this one
        while ahead:
            yield _handed_out(*ahead.popleft(), device)
    finally:
        if copied is not None:  # the ring may be used again at once
            copied.synchronize()


def _handed_out(moved: Batch, copied: torch.cuda.Event, device: torch.device) -> Batch:
    """Let the stream that computes wait for the copy, and keep the memory for as long as it works on it."""
    computing = torch.cuda.current_stream(device)
    computing.wait_event(copied)
    for tensor in moved.values():
        tensor.record_stream(computing)
    return moved
