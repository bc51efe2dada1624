"""What is a video by its name, and which containers are opened."""

from __future__ import annotations

VIDEO_SUFFIXES = frozenset(
    [
        ".3g2",
        ".3gp",
        ".asf",
        ".avi",
        ".divx",
        ".dv",
        ".f4v",
        ".flv",
        ".gif",
        ".h264",
        ".h265",
        ".hevc",
        ".ivf",
        ".m1v",
        ".m2ts",
        ".m2v",
        ".m4v",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".mts",
        ".mxf",
        ".nut",
        ".ogm",
        ".ogv",
        ".qt",
        ".rm",
        ".rmvb",
        ".ts",
        ".vob",
        ".webm",
        ".wmv",
        ".y4m",
    ]
)

# Containers that hold media themselves. Playlists, concat scripts and image sequences, which open other files or
# addresses, are not among them: a list of protocols alone does not stop those.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,live_flv,mpegts,mpeg,mpegvideo,mpegtsraw,ogg,asf,asf_o,gif,h264,hevc,h263,m4v,ivf,"
    "nut,rm,mxf,wtv,dv,yuv4mpegpipe,av1,obu,vc1,swf,apng,rawvideo,mjpeg,ea,roq,smk,bink,nsv,dxa,gxf,mv,vivo,amv,cavsvideo,vvc,evc,aac,wav,mp3,flac"
)
PROTOCOLS = "file,pipe,fd,subfile"
SEEKABLE = ("mp4", "matroska")
"""Containers with an index: in others seeking may land behind the frames that are wanted."""
