"""Any module that sorts images as an ONNX model, by what it does with an example.

Torch's exporter by tracing: a second or so, and it needs no package beside onnx. What a module decides by its input's
values, or by how many images there are, would stay as it was for the example, so check what it answers.
"""

from __future__ import annotations

import io
import warnings

import torch
from torch import Tensor, nn

from nasengine.errors import ExportError, told
from nasengine.onnx_file import OPSET


def onnx_of(model: nn.Module, example: Tensor) -> bytes:
    """The file: `images` [batch, C, H, W] to `logits` [batch, classes], in eval mode and the example's precision.

    Args:
        model: makes logits [N, classes] of images; it is as before afterwards.
        example: images [N, C, H, W], on the model's device; the first one counts.

    Raises:
        ExportError: if the model does something that ONNX, or torch's exporter, has no word for.
    """
    file, batch, fast = io.BytesIO(), {0: "batch"}, torch.backends.mha.get_fastpath_enabled()
    two = example[:1].repeat(2, 1, 1, 1)  # one image would be taken for a batch of always one
    try:
        torch.backends.mha.set_fastpath_enabled(False)  # ONNX has no word for it
        torch._C._jit_set_onnx_log_output_stream("stderr")  # stdout may be for events alone
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model,
                (two,),
                file,
                dynamo=False,
                opset_version=OPSET,
                input_names=["images"],
                output_names=["logits"],
                dynamic_axes={"images": batch, "logits": batch},
            )
    except Exception as error:  # a thousand models fail in as many ways
        raise ExportError(
            f"the model cannot be written as ONNX ({told(error).split('. Please')[0]}); keep it as PyTorch"
        ) from None
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return file.getvalue()
