"""Points on pictures, folders, videos and from a camera, and the files written."""
