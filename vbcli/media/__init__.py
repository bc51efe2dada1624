"""The only callers of ffmpeg and PyAV: what a video says of itself, and its frames with their true presentation times.

formats    what is a video by its name, and which containers are opened
program    the ffmpeg that runs
probe      what a container says of its best video stream, and when its frames are shown
decode     frames, chosen and resized within one ffmpeg process
"""
