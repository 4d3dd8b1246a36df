"""How large the pictures of a medium are, before one is decoded; knows files, nothing of frames."""

from videollava_cli.reader import Found


def num_pixels(found: Found) -> int:
    """Return how many pixels a picture of a medium has, as its header says.

    Raises:
        MediaError: If it cannot be opened.
    """
    if found.form == "video":
        from videollava_cli.reader.video.containers import opened, video_stream

        with opened(found.path, found.name) as container:
            stream = video_stream(container, found.name)
            return stream.width * stream.height
    from videollava_cli.reader.stills import num_still_pixels

    return num_still_pixels(found.path, found.name)
