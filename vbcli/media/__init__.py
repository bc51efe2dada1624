"""The only callers of ffmpeg and PyAV: what a video says of itself, and its frames with their true presentation times.

formats    what is a video by its name, and which containers are opened
program    the ffmpeg that runs
probe      what a container says of its best video stream, and when its frames are shown
sampling   which frames are taken
filters    what is done to each picture
running    one ffmpeg process, limited in time and memory
video      frames of one video, chosen and resized within one ffmpeg process
decode     the decoder of a run
limits     how much of a machine one video may take
"""
