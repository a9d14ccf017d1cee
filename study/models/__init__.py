"""Models as files on disk, without torch: weights' headers, context, shapes."""
