"""Verifies a DSSE envelope with securesystemslib from PyPI: an implementation that shares no line with ours.

usage: verify-dsse.py ENVELOPE.json KEY.pub.pem
"""

import json
import sys

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey

with open(sys.argv[1], "rb") as file:
    data = json.load(file)
with open(sys.argv[2], "rb") as file:
    raw = load_pem_public_key(file.read()).public_bytes(Encoding.Raw, PublicFormat.Raw)
key = SSlibKey(data["signatures"][0]["keyid"], "ed25519", "ed25519", {"public": raw.hex()})
envelope = Envelope.from_dict(data)
envelope.verify([key], 1)
print("verified", envelope.payload_type)
