"""The loops over every byte, in Python and NumPy: what runs without the compiled kernel, and what that is held against.

What always holds: no function keeps state; a buffer that does not fit raises `ValueError`, and nothing is written.
"""

from qsotn.dataplane.kernel_numpy_gfp import descramble_x43 as descramble_x43
from qsotn.dataplane.kernel_numpy_gfp import follow_clients as follow_clients
from qsotn.dataplane.kernel_numpy_gfp import map_clients as map_clients
from qsotn.dataplane.kernel_numpy_gfp import payload_fcs as payload_fcs
from qsotn.dataplane.kernel_numpy_gfp import scramble_x43 as scramble_x43
from qsotn.dataplane.kernel_numpy_otu import build_frames as build_frames
from qsotn.dataplane.kernel_numpy_otu import decode_fec as decode_fec
from qsotn.dataplane.kernel_numpy_otu import encode_fec as encode_fec
from qsotn.dataplane.kernel_numpy_otu import parity_bip8 as parity_bip8
from qsotn.dataplane.kernel_numpy_otu import scramble_otu as scramble_otu
from qsotn.dataplane.kernel_numpy_otu import take_frames as take_frames
