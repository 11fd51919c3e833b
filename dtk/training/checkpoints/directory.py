"""Checkpoints in a directory that all ranks share: which there are, whose turn it is to write, and which are whole.

::

    checkpoints/
    ├── claims/00000002.json              the second launch: what it found whole, and takes for its past
    ├── step-000000001200-00000001/       before step 1200, by the first launch
    │   ├── shard-00001-model-00001-of-00001.safetensors
    │   └── checkpoint.json               written last: without it there is no checkpoint
    └── step-000000002400-00000002/

Each launch claims the next number. A checkpoint counts if the launch that wrote it was the last one then: what a rank
of an older launch publishes late, because its host was cut off or slept, is in no claim, and is never read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dtk.errors import ArgumentError, CheckpointError
from dtk.training.checkpoints.shelf import Shelf

__all__ = ["Checkpoint", "CheckpointDirectory", "Manifest", "file_digest"]

VERSION: Final = 1
MANIFEST: Final = "checkpoint.json"
CLAIMS: Final = "claims"
TOKENS: Final = ".seen-"
"""What the names of files begin with by which workers find out whether they share the directory."""
_NAME: Final = re.compile(r"step-(\d{12})-(\d{8})")


@dataclass(frozen=True)
class Checkpoint:
    """Where a training keeps its checkpoints, how often it takes one, and how many it keeps.

    Parameters
    ----------
    path : str
        A directory that all ranks share, or a URL such as ``"s3://bucket/run"``. A training that finds checkpoints of
        its own there goes on from the last one.
    every_s : float, optional
        Seconds from one to the next; None takes none by the clock.
    every_steps : int, optional
        Steps from one to the next; None takes none by their number.
    keep : int
        How many of the last ones stay. Each holds the weights of the best validation so far, too.
    storage_options : mapping of str to object, optional
        For the file system of a URL: an endpoint, credentials.
    training : str
        Of whom it is: set by dtk, so that a training which starts again knows its own launches from another's.
    """

    path: str
    every_s: float | None = 300.0
    every_steps: int | None = None
    keep: int = 2
    storage_options: Mapping[str, Any] | None = field(default=None, repr=False)
    training: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        """Refuse what cannot work; make a path absolute, because workers have directories of their own."""
        path = os.fspath(self.path)
        if not path:
            raise ArgumentError("checkpoint='' names no directory; give one that all workers share")
        if self.every_s is not None and not self.every_s > 0:
            raise ArgumentError(f"every_s={self.every_s} must be more than 0 seconds, or None")
        if self.every_steps is not None and self.every_steps < 1:
            raise ArgumentError(f"every_steps={self.every_steps} must be at least 1, or None")
        if self.keep < 1:
            raise ArgumentError(f"keep={self.keep} must be at least 1")
        object.__setattr__(self, "path", path if "://" in path else os.path.abspath(os.path.expanduser(path)))


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds beside its tensors.

    Parameters
    ----------
    name : str
        Of its directory.
    step : int
        The step that comes next, counted over all epochs.
    incarnation : int
        The launch that wrote it.
    files : mapping of str to list
        Of each file the bytes and the digest.
    state : mapping
        What the loop keeps, in types of JSON.
    """

    name: str
    step: int
    incarnation: int
    files: Mapping[str, list[Any]]
    state: Mapping[str, Any] = field(default_factory=dict)


class CheckpointDirectory:
    """The directory of checkpoints, as rank 0 keeps it, and all ranks read it.

    Parameters
    ----------
    path : str
        Where: a directory, or a URL.
    storage_options : mapping, optional
        For the file system of a URL.
    """

    def __init__(self, path: str, storage_options: Mapping[str, Any] | None = None) -> None:
        self.shelf = Shelf(path, storage_options)
        self.path = self.shelf.path
        self._incarnation = 0
        self._past: list[str] = []

    @property
    def incarnation(self) -> int:
        """The number that this launch has claimed; 0 before."""
        return self._incarnation

    def check(self) -> None:
        """Refuse a directory that is none of checkpoints.

        Raises
        ------
        CheckpointError
            If something else is there.
        """
        found = [name for name in self.shelf.names() if not name.startswith(TOKENS)]
        if found and CLAIMS not in found:
            raise CheckpointError(f"checkpoint={self.path!r} holds something else; give a directory of its own")

    def claim(self, training: str = "") -> int:
        """Take the next number, and with it the sole right to publish here.

        Parameters
        ----------
        training : str
            Whose launch this is.

        Returns
        -------
        int
            The number, from 1.

        Raises
        ------
        CheckpointError
            If another launch claims at the same time, another training has taken over since this one's last launch, or
            the directory is something else.
        """
        self.check()
        self.shelf.make(CLAIMS)
        before = self._last_claim()
        told = {number: self._claim_of(number) for number in range(1, before + 1)}
        owners = [body.get("training", "") for body in told.values() if body is not None]
        if training and training in owners and owners[-1] != training:
            raise CheckpointError(
                f"checkpoint={self.path!r} was taken over by another training, with launch {before}, since the last "
                "launch of this one; give each a directory"
            )
        known = max((number for number, body in told.items() if body is not None), default=0)
        past = set((told.get(known) or {"past": ()})["past"])
        names = {name for name in self.shelf.names() if _NAME.fullmatch(name)}
        counted = {name for name in names if name in past or _incarnation(name) >= known}
        self._past = sorted(name for name in counted if self.shelf.has(f"{name}/{MANIFEST}"))
        self._incarnation = before + 1
        body = {"incarnation": self._incarnation, "training": training, "past": self._past, "token": uuid.uuid4().hex}
        try:
            self.shelf.write(_claim_name(self._incarnation), json.dumps(body).encode(), exclusive=True)
        except FileExistsError:
            raise CheckpointError(
                f"another training has just begun to write to checkpoint={self.path!r}; give each a directory"
            ) from None
        for name in names.difference(self._past):
            self.remove(name)
        return self._incarnation

    def sees_claim(self, incarnation: int) -> bool:
        """Tell whether a claim can be seen from here.

        Parameters
        ----------
        incarnation : int
            Its number.

        Returns
        -------
        bool
            Whether the directory is the same one as that of the rank that claimed it.
        """
        return _claim_name(incarnation).partition("/")[2] in self.shelf.names(CLAIMS)

    def published(self) -> tuple[list[Manifest], dict[str, str]]:
        """List the checkpoints that count.

        Returns
        -------
        list of Manifest
            From the last one to the first; whether their files are whole is another question.
        dict of str to str
            By name, what is wrong with a manifest that cannot be read.

        Raises
        ------
        CheckpointError
            If one was written by a newer version of dtk.
        """
        own = f"-{self._incarnation:08d}"
        there = self.shelf.names()
        names = {name for name in there if name in self._past or (_NAME.fullmatch(name) and name.endswith(own))}
        found, faults = list[Manifest](), dict[str, str]()
        for name in sorted(names, reverse=True):
            if not self.shelf.has(f"{name}/{MANIFEST}"):
                continue
            try:
                found.append(self._manifest(name))
            except (ValueError, KeyError, TypeError, OSError):
                faults[name] = f"{self.path}/{name}/{MANIFEST} is damaged"
        return found, faults

    def begin(self, step: int) -> str:
        """Make the directory of a checkpoint.

        Parameters
        ----------
        step : int
            The step that comes next.

        Returns
        -------
        str
            Its name; it is empty.
        """
        name = f"step-{step:012d}-{self._incarnation:08d}"
        self.remove(name)
        self.shelf.make(name)
        return name

    def publish(self, step: int, files: Mapping[str, list[Any]], state: Mapping[str, Any]) -> None:
        """Make a checkpoint count.

        Parameters
        ----------
        step : int
            As for `begin`.
        files : mapping of str to list
            Of each file the bytes and the digest.
        state : mapping
            What the loop keeps, in types of JSON.

        Raises
        ------
        CheckpointError
            If a later launch has claimed the directory.
        """
        self._refuse_if_taken_over()
        name = f"step-{step:012d}-{self._incarnation:08d}"
        body = {"version": VERSION, "step": step, "incarnation": self._incarnation, "files": files, "state": state}
        told = {"digest": _text_digest(json.dumps(body)), "checkpoint": body}
        self.shelf.write(f"{name}/{MANIFEST}", json.dumps(told).encode())

    def prune(self, keep: int) -> None:
        """Remove all but the last checkpoints.

        Parameters
        ----------
        keep : int
            How many stay.

        Raises
        ------
        CheckpointError
            If a later launch has claimed the directory: it may need what is older.
        """
        for manifest in self.published()[0][keep:]:
            self._refuse_if_taken_over()
            self.remove(manifest.name)

    def remove(self, name: str) -> None:
        """Remove a checkpoint.

        Parameters
        ----------
        name : str
            Of its directory; that there is none is no error.
        """
        self.shelf.remove(f"{name}/{MANIFEST}")  # first: what is half removed must not count
        self.shelf.remove(name)

    def damage(self, manifest: Manifest, files: list[str], at: Path) -> str:
        """Compare files of a checkpoint with what was written.

        Parameters
        ----------
        manifest : Manifest
            The checkpoint's.
        files : list of str
            Which files.
        at : pathlib.Path
            Where they are on this machine.

        Returns
        -------
        str
            What is wrong; empty if nothing is.
        """
        for name in files:
            path, shown = at / name, f"{self.path}/{manifest.name}/{name}"
            nbytes, digest = manifest.files[name]
            try:
                if path.stat().st_size != nbytes or file_digest(path) != digest:
                    return f"{shown} is damaged"
            except FileNotFoundError:
                return f"{shown} is missing"
            except OSError as error:
                return f"{shown} cannot be read ({error})"
        return ""

    def _manifest(self, name: str) -> Manifest:
        """Read a manifest; what is not as it was written is an error of some kind."""
        told = json.loads(self.shelf.read(f"{name}/{MANIFEST}"))
        body = told["checkpoint"]
        if body["version"] > VERSION:
            raise CheckpointError(
                f"{self.path}/{name} is of version {body['version']}, and this dtk knows {VERSION}; install a newer one"
            )
        if _text_digest(json.dumps(body)) != told["digest"]:
            raise ValueError(name)
        return Manifest(name, body["step"], body["incarnation"], body["files"], body["state"])

    def _last_claim(self) -> int:
        return max(
            (int(name[:8]) for name in self.shelf.names(CLAIMS) if re.fullmatch(r"\d{8}\.json", name)), default=0
        )

    def _claim_of(self, number: int) -> dict[str, Any] | None:
        """Read a claim; None for one that was cut off while it was written, which claims nothing."""
        with contextlib.suppress(ValueError, FileNotFoundError):
            body = json.loads(self.shelf.read(_claim_name(number)))
            if isinstance(body, dict) and isinstance(body.get("past"), list):
                return body
        return None

    def _refuse_if_taken_over(self) -> None:
        last = self._last_claim()
        if last != self._incarnation:
            raise CheckpointError(
                f"checkpoint={self.path!r} was claimed by launch {last}: this one, {self._incarnation}, publishes "
                "nothing more here"
            )


def file_digest(path: Path) -> str:
    """Digest a file's content.

    Parameters
    ----------
    path : pathlib.Path
        The file.

    Returns
    -------
    str
        BLAKE2b, 16 bytes, in hex.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _text_digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _claim_name(number: int) -> str:
    return f"{CLAIMS}/{number:08d}.json"


def _incarnation(name: str) -> int:
    match = _NAME.fullmatch(name)
    assert match is not None
    return int(match[2])
