"""The content type of a file name, and a file name for a content type.

Decides: the table. Python's own grew with its releases, and a host may add to it; but the stored
e-mail, and so the hash of its content, must be the same everywhere.

Promises: the registered types (IANA) of what people send; any other file is
``application/octet-stream``, ``.bin``.
"""

from __future__ import annotations

OCTETS = "application/octet-stream"

# Type and extensions, the usual one first; after "=" other names of the same type.
_TABLE = """
application/epub+zip epub
application/gzip gz tgz = application/x-gzip
application/java-archive jar = application/x-java-archive
application/json json
application/ld+json jsonld
application/manifest+json webmanifest
application/msword doc dot
application/pdf pdf = application/x-pdf
application/pkcs7-mime p7m p7c = application/x-pkcs7-mime
application/pkcs7-signature p7s = application/x-pkcs7-signature
application/pkix-cert cer crt
application/postscript ps ai eps
application/rtf rtf = text/rtf
application/sql sql
application/vnd.apple.keynote key
application/vnd.apple.numbers numbers
application/vnd.apple.pages pages
application/vnd.apple.pkpass pkpass
application/vnd.ms-excel xls xlt
application/vnd.ms-excel.sheet.binary.macroEnabled.12 xlsb
application/vnd.ms-excel.sheet.macroEnabled.12 xlsm
application/vnd.ms-outlook msg
application/vnd.ms-powerpoint ppt pps pot
application/vnd.ms-powerpoint.presentation.macroEnabled.12 pptm
application/vnd.ms-word.document.macroEnabled.12 docm
application/vnd.oasis.opendocument.graphics odg
application/vnd.oasis.opendocument.presentation odp
application/vnd.oasis.opendocument.spreadsheet ods
application/vnd.oasis.opendocument.text odt
application/vnd.openxmlformats-officedocument.presentationml.presentation pptx
application/vnd.openxmlformats-officedocument.presentationml.slideshow ppsx
application/vnd.openxmlformats-officedocument.presentationml.template potx
application/vnd.openxmlformats-officedocument.spreadsheetml.sheet xlsx
application/vnd.openxmlformats-officedocument.spreadsheetml.template xltx
application/vnd.openxmlformats-officedocument.wordprocessingml.document docx
application/vnd.openxmlformats-officedocument.wordprocessingml.template dotx
application/vnd.rar rar = application/x-rar-compressed
application/vnd.visio vsd vsdx
application/wasm wasm
application/x-7z-compressed 7z
application/x-bzip2 bz2
application/x-iwork-keynote-sffkey key
application/x-pem-file pem
application/x-pkcs12 p12 pfx
application/x-sh sh
application/x-tar tar
application/x-tex tex
application/x-xz xz
application/yaml yaml yml = application/x-yaml text/yaml text/x-yaml
application/zip zip = application/x-zip-compressed
application/zstd zst
audio/aac aac
audio/amr amr
audio/flac flac = audio/x-flac
audio/midi mid midi
audio/mp4 m4a = audio/x-m4a
audio/mpeg mp3 = audio/mp3
audio/ogg ogg oga
audio/opus opus
audio/wav wav = audio/x-wav audio/wave audio/vnd.wave
audio/x-aiff aiff aif = audio/aiff
font/otf otf
font/ttf ttf
font/woff woff
font/woff2 woff2
image/apng apng
image/avif avif
image/bmp bmp = image/x-ms-bmp
image/gif gif
image/heic heic
image/heif heif
image/jpeg jpg jpeg jpe = image/jpg
image/png png
image/svg+xml svg
image/tiff tiff tif
image/vnd.adobe.photoshop psd
image/vnd.microsoft.icon ico = image/x-icon
image/webp webp
message/rfc822 eml
text/calendar ics ifb = application/ics
text/css css
text/csv csv
text/html html htm
text/javascript js mjs = application/javascript application/x-javascript
text/markdown md markdown = text/x-markdown
text/plain txt log text conf ini srt
text/tab-separated-values tsv
text/vcard vcf = text/x-vcard
text/vtt vtt
text/x-diff diff patch
text/x-python py
text/xml xml xsd xsl = application/xml
video/3gpp 3gp
video/mp4 mp4 m4v
video/mpeg mpeg mpg
video/ogg ogv
video/quicktime mov qt
video/webm webm
video/x-matroska mkv
video/x-ms-wmv wmv
video/x-msvideo avi
"""


def _read(table: str) -> tuple[dict[str, frozenset[str]], dict[str, str], dict[str, str]]:
    types: dict[str, frozenset[str]] = {}
    main_type: dict[str, str] = {}
    extension: dict[str, str] = {}
    for line in table.strip().splitlines():
        usual, _, others = line.partition(" = ")
        type_, *ends = usual.split()
        for end in ends:
            main_type[end] = type_
            types[end] = frozenset({type_, *others.split()})
        for name in (type_, *others.split()):
            extension.setdefault(name.lower(), ends[0])
    return types, main_type, extension


_TYPES, _MAIN_TYPE, _EXTENSION = _read(_TABLE)


def type_of(filename: str) -> str:
    """The content type of a file of this name."""
    return _MAIN_TYPE.get(_extension(filename), OCTETS)


def types_of(filename: str) -> frozenset[str]:
    """All content types that fit this name; empty if its extension is not known."""
    return _TYPES.get(_extension(filename), frozenset())


def name_of(content_type: str) -> str:
    """A name for a file that has none: several vendors silently drop a file without a name."""
    bare = content_type.partition(";")[0].strip().lower()
    return f"attachment.{_EXTENSION.get(bare, 'bin')}"


def _extension(filename: str) -> str:
    _, dot, end = filename.rpartition(".")
    return end.lower() if dot else ""
