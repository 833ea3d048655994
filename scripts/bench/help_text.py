"""What ``wavernn-trt bench --help`` explains around its options."""

from __future__ import annotations

from wavernn_trt.scripts.bench.compare import RULE

DESCRIPTION = """\
Measures how fast a model speaks on this machine.

--scenario speed   fixed batches of equal lengths, beside what the machine could do (a matrix
                   product, and a copy of memory) and beside what others do with the same
                   weights (--peers). Everything is measured in turn, in every round; medians
                   are reported. The default.
--scenario batch   a job of utterances of mixed lengths, all slots kept full; beside it, in
                   the same run, the same work in fixed batches padded to the longest. Some
                   utterances are spoken again alone, and compared bit for bit.
--scenario stream  listeners who read 20 ms every 20 ms: the time to the first frame, and how
                   many can listen without an underrun.
--scenario mixed   listeners beside a batch job: what they hear, and what they cost the job.
"""
_EXAMPLES = """\
peers, with the weights of the model itself:
  loop         its modules in a plain PyTorch loop over samples, as WaveRNNs are usually run
  cuda-graphs  its modules as one CUDA graph of many steps, fused cells, samples drawn on the GPU
               (in --precision, else fp16)
  univoc       univoc's own Vocoder.generate, one stream at a time (pip install --no-deps univoc)
  torchaudio   torchaudio's own WaveRNN.infer, for torchaudio's and fatchord's models
univoc and torchaudio are first held against the model, with the same samples before each step: one
that computes something else is refused. Beside a backend on a GPU, peers run there where PyTorch can.

examples:
  wavernn-trt bench                                 the voice that is shipped
  wavernn-trt bench --model my-voice --batch 1,16
  wavernn-trt bench --random univoc-896 --json univoc.json
  wavernn-trt bench --backend onnxruntime --batch 1:64 --json speed.json --plot speed.png
  wavernn-trt bench --plot speed.svg --from speed.json          draw it again
  wavernn-trt bench --backend tensorrt-rtx,cuda --precision fp16 --batch 1:128 --peers loop,cuda-graphs
  wavernn-trt bench --backend onnxruntime --peers none --batch 8 --json new.json --compare old.json
  wavernn-trt bench --from new.json --compare old.json          compare, and measure nothing
  wavernn-trt bench --price 0.35 --currency EUR                 what 1,000 hours of speech cost here
  wavernn-trt bench --scenario batch
  wavernn-trt bench --scenario batch --utterances 2000 --verify all --mels speech/    the load test
  wavernn-trt bench --scenario stream --listeners 1,2,4,8
  wavernn-trt bench --scenario mixed --listeners 4 --backend tensorrt-rtx

comparing:
"""
_CODES = """\
exit codes: 0 measured; 1 no backend could be measured, an utterance failed or differs from the same
alone, or something is slower than in the report compared with; 2 wrong usage, or nothing of two
reports could be compared
"""
EPILOG = f"{_EXAMPLES}{RULE}\n{_CODES}"
