"""The OTN-CPE data plane: client bytes to encrypted OTU frames and back (Figure 4, step 12: encrypt OPUk payload).

Read in this order:

1. `gfp`, `gfp_delineation` — client frames to a stream of bytes and back (ITU-T G.7041).
2. `g709`, `alignment` — OTU frames, and how they are found again (ITU-T G.709, G.798).
3. `seal` — the crypto multiframe: four OPU payloads under one AES-256-GCM call.
4. `confirmation`, `keyslots` — which keys are used when: two ends or none.
5. `transmitter`, `receiver`, `terminal` — one end of a line; `events` is what it reports.
6. `line`, `loopback` — the emulated fibre, and a whole line in one process.

Beside these stand, for lines that carry more than a demonstration:

7. `rates`, `overhead`, `trail_trace`, `justification`, `maintenance`, `defects`, `trail_monitor` — the rest of
   G.709, and of G.798.
8. `odu_frames` — OTU frames with all of that, many at a time; `reed_solomon` corrects them.
9. `gfp_types`, `client_management`, `ethernet`, `gfp_hunt`, `clients`, `gfp_stream` — the rest of G.7041, in bulk.
10. `capture` — GFP frames as Wireshark reads them.

`kernel` chooses who does the loops over every byte: the C of `native`, or `kernel_numpy`. What always holds is said at
the head of each file; above all: what leaves a terminal is the output of the AEAD or the null client, and what is
delivered was authenticated, whole and in order.
"""
