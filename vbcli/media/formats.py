"""What is a video by its name, and which containers are opened."""

from __future__ import annotations

_NAMES = """
264 265 266 360 3g2 3gp 3gp2 3gpp 3gpp2 amv apv asf av1 avi avs2 avs3 bik cavs cine cpk dav dhav dirac divx dnxhd drc dv dvr-ms
evc f4p f4v flc fli flv gif gxf h261 h263 h264 h265 h266 hevc insv ismv ivf ivr kux lrv lxf m1v m2p m2t m2ts m2v m4v mj2 mjpeg
mjpg mk3d mkv mod mov mp2v mp4 mp4v mpe mpeg mpg mpv mpv2 mqv mts mv mxf mxg nsv nut nuv obu ogm ogv ogx pmp pva qt rm rmvb roq
ser smjpeg smk ssif swf thp tod tp trp ts ty usm vc1 vc2 viv vivo vob vro vvc webm wm wmv wtv xmv y4m
"""
VIDEO_SUFFIXES = frozenset(f".{name}" for name in _NAMES.split())
# Suffixes that stand for pictures or texts more often, such as .webp, .apng and .dat, are not among them.
TEXT_SUFFIXES = frozenset([".ass", ".csv", ".json", ".json3", ".jsonl", ".ndjson", ".parquet", ".srt", ".ssa", ".tsv", ".txt", ".vtt"])
"""Of what is said about videos: it is no video that was forgotten."""

# Containers that hold media themselves. Playlists, concat scripts and image sequences, which open other files or
# addresses, are not among them: a list of protocols alone does not stop those.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,live_flv,mpegts,mpeg,mpegvideo,mpegtsraw,ogg,asf,asf_o,gif,h264,hevc,h263,m4v,ivf,"
    "nut,rm,mxf,wtv,dv,yuv4mpegpipe,av1,obu,vc1,swf,apng,rawvideo,mjpeg,jpeg_pipe,ea,roq,smk,bink,nsv,dxa,gxf,mv,vivo,cavsvideo,vvc,evc,aac,wav,mp3,flac,"
    "webp_anim,h261,dirac,dnxhd,avs2,avs3,apv,nuv,flic,thp,ivr,kux,dhav,ty,lxf,ser,cine,smjpeg,mpjpeg,film_cpk,pva,pmp,usm,xmv,mxg"
)
PROTOCOLS = "file,pipe,fd,subfile"
SEEKABLE = ("mp4", "matroska")
"""Containers with an index: in others seeking may land behind the frames that are wanted."""
