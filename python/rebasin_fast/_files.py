"""Files are written whole, or not at all.

Each file is first written under a temporary name in its own folder, so that the final step is a rename within one file
system. Several files belong together: when one of them cannot be written, none of them appears.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path


def check_regular(path: Path) -> None:
    """Check that `path` is a file to be read from beginning to end: a pipe would never begin, a device may never end.

    Raises
    ------
    OSError
        There is nothing, or a folder, or it may not be looked at.
    ValueError
        It is a pipe, a device or a socket.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path} is a folder; expected a file")
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path} is a pipe, a device or a socket; expected a regular file")


def check_writable(targets: Sequence[Path], *, overwrite: bool = False) -> None:
    """Check that `targets` can be written later, without creating anything now.

    Parameters
    ----------
    targets : sequence of Path
        Files to be written. Folders that do not exist yet are fine if they can be created.
    overwrite : bool, default False
        Whether files that exist already may be replaced.

    Raises
    ------
    FileExistsError
        A target exists and `overwrite` is False.
    IsADirectoryError
        A target is a folder.
    ValueError
        A target is a pipe, a device or a socket, which a file would take the place of.
    NotADirectoryError
        The place for a folder is taken by a file.
    PermissionError
        The folder, or the nearest one above it that exists, is not writable.
    """
    for target in targets:
        if target.is_dir():
            raise IsADirectoryError(f"{target} is a folder; expected the name of a file to write")
        if target.exists() and not target.is_file():
            raise ValueError(f"{target} is a pipe, a device or a socket; expected the name of a file to write")
    existing = [str(target) for target in targets if os.path.lexists(target)]
    if existing and not overwrite:
        raise FileExistsError(f"not overwriting what exists already: {', '.join(existing)}")
    for folder in dict.fromkeys(target.parent for target in targets):
        _check_folder(folder)


@contextmanager
def told_as(target: Path) -> Iterator[None]:
    """Let an error of writing in the block say which file could not be written, by its final name, and why.

    Raises
    ------
    OSError
        What was raised within, named; or, where a library made something else of it, what that came from.
    """
    try:
        yield
    except Exception as error:
        origin: BaseException | None = error
        while origin is not None and not isinstance(origin, OSError):
            origin = origin.__cause__ or origin.__context__
        if origin is None:
            raise
        message = f"{target} cannot be written: {origin.strerror or origin}"
        raise (OSError(message) if origin.errno is None else OSError(origin.errno, message)) from error


@contextmanager
def whole_files(targets: Sequence[Path], *, overwrite: bool = False) -> Iterator[list[Path]]:
    """Write all of `targets`, or none of them.

    Yields one temporary path per target for the block to write to. When the block ends well, all of them move to their
    final names; when it, or a move, fails, the folders are left as they were found.

    Parameters
    ----------
    targets : sequence of Path
        Files to write. Missing folders are created, and removed again on failure.
    overwrite : bool, default False
        Whether files that exist already may be replaced.

    Yields
    ------
    list of Path
        Temporary names, in the order of `targets`, with the same suffixes.

    Raises
    ------
    OSError
        As `check_writable`; or whatever goes wrong while writing, such as a full disk.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with whole_files([folder / "numbers.txt"]) as (numbers,):
    ...     _ = numbers.write_text("1 2 3")
    >>> [path.name for path in folder.iterdir()]
    ['numbers.txt']
    """
    check_writable(targets, overwrite=overwrite)
    temporary = [_hidden(target) for target in targets]
    with _folders_for(targets):
        try:
            yield temporary
            # Again: another process may have been here while the block was writing.
            check_writable(targets, overwrite=overwrite)
            for path in temporary:
                _flush(path)
            _move_all(temporary, targets)
        except BaseException:
            for path in temporary:
                path.unlink(missing_ok=True)
            raise


def check_folder_writable(target: Path, *, overwrite: bool = False) -> None:
    """Check that the folder `target` can be written later, without creating anything now.

    Parameters
    ----------
    target : Path
        The folder to be written.
    overwrite : bool, default False
        Whether a folder of that name may be replaced. Only one of files alone ever is, one of them safetensors: a slip
        of the pen shall not cost a home directory.

    Raises
    ------
    OSError
        As `check_writable`; and if the folder holds something else.
    """
    if os.path.lexists(target):
        if target.is_symlink() or not target.is_dir():
            raise NotADirectoryError(f"{target} is no folder; expected the name of a folder to write")
        held = list(target.iterdir())
        if held and not overwrite:
            raise FileExistsError(f"not overwriting what exists already: {target}")
        if held and not (all(map(_is_plain, held)) and any(path.suffix == ".safetensors" for path in held)):
            raise FileExistsError(f"not overwriting {target}: it holds more than the files of a model")
    _check_folder(target.parent)


@contextmanager
def whole_folder(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Write a folder of files whole, or not at all.

    Yields a hidden folder next to `target`, which gets its final name when the block ends well, and is removed when
    something fails. What stood there before is replaced then, and not earlier.

    Parameters
    ----------
    target : Path
        The folder to write. Missing ones above it are created, and removed again on failure.
    overwrite : bool, default False
        As in `check_folder_writable`.

    Yields
    ------
    Path
        The folder to write to.

    Raises
    ------
    OSError
        As `check_folder_writable`; or whatever goes wrong while writing, such as a full disk.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with whole_folder(folder / "model") as temporary:
    ...     _ = (temporary / "config.json").write_text("{}")
    >>> [path.name for path in folder.rglob("*")]
    ['model', 'config.json']
    """
    check_folder_writable(target, overwrite=overwrite)
    temporary = _hidden(target)
    with _folders_for([target]):
        try:
            temporary.mkdir()
            yield temporary
            check_folder_writable(target, overwrite=overwrite)
            for path in temporary.iterdir():
                _flush(path)
            _move_folder(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


@contextmanager
def _folders_for(targets: Sequence[Path]) -> Iterator[None]:
    """Create the folders that `targets` lack, and remove them again when the block fails."""
    created: list[Path] = []
    try:
        for folder in _missing_folders(targets):
            folder.mkdir(exist_ok=True)
            created.insert(0, folder)
        yield
    except BaseException:
        for folder in created:
            with suppress(OSError):  # not empty any more: somebody else uses it now
                folder.rmdir()
        raise


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _move_folder(source: Path, target: Path) -> None:
    """Rename a folder; one that stood there before is kept until that has worked."""
    kept = None
    if target.exists():
        kept = _hidden(target)
        target.rename(kept)
    try:
        source.rename(target)
    except BaseException:
        if kept is not None:
            kept.rename(target)
        raise
    if kept is not None:
        shutil.rmtree(kept, ignore_errors=True)


def _check_folder(folder: Path) -> None:
    nearest = folder
    while not os.path.lexists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise NotADirectoryError(f"cannot write to {folder}: {nearest} is not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(f"cannot write to {folder}: no permission to write in {nearest}")


def _missing_folders(targets: Sequence[Path]) -> list[Path]:
    """Return the folders to create for `targets`, outermost first."""
    missing = {folder for target in targets for folder in target.parents if not folder.exists()}
    return sorted(missing, key=lambda folder: len(folder.parts))


def _hidden(target: Path) -> Path:
    """Return an unused name next to `target`; the suffix stays, as writers choose the format by it."""
    return target.with_name(f".{secrets.token_hex(8)}-{target.name}")


def _flush(path: Path) -> None:
    """Put the bytes on the disk before the rename, so that a full disk or a crash cannot leave an empty file."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _move_all(sources: Sequence[Path], targets: Sequence[Path]) -> None:
    """Rename every source to its target; when one fails, put back what the targets were before."""
    moved: list[Path] = []
    kept: dict[Path, Path] = {}
    try:
        for source, target in zip(sources, targets, strict=True):
            if os.path.lexists(target):
                kept[target] = _keep(target)
            source.replace(target)
            moved.append(target)
    except BaseException:
        for target in moved:
            if target not in kept:
                target.unlink(missing_ok=True)
        for target, backup in kept.items():
            backup.replace(target)
            backup.unlink(missing_ok=True)  # renaming a file to another name of itself leaves both names
        raise
    for backup in kept.values():
        backup.unlink(missing_ok=True)


def _keep(target: Path) -> Path:
    """Keep the present `target` under a second, hidden name, without a moment in which `target` does not exist."""
    backup = _hidden(target)
    try:
        os.link(target, backup, follow_symlinks=False)
    except (OSError, NotImplementedError):  # a file system without hard links
        shutil.copy2(target, backup, follow_symlinks=False)
    return backup
