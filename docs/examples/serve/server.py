"""Server of a file that rfdlight export wrote: pixels in, logits out, with other noise in every worker.

pip install starlette uvicorn onnxruntime
FILE=defended.onnx uvicorn --app-dir docs/examples/serve server:app --workers 2

POST / with a batch of pixels, float32 (N, C, H, W) in [0, 1], as the bytes of a .npy file. The answer holds the logits,
float32 (N, classes), in the same form. Anything else is refused with status 400 and one line of text. A worker keeps
its last answers by the header Idempotency-Key, so that a client that lost an answer gets it again.
"""

import io
import os
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

MOST_BYTES = 64_000_000
KEPT_ANSWERS = 1000


def load(file: str) -> Callable[[np.ndarray], np.ndarray]:
    """Seed this process with a secret random number, then load the file; a fixed seed would replay its noise."""
    if file.endswith(".onnx"):
        import onnxruntime

        onnxruntime.set_seed(secrets.randbits(31))
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        return lambda x: session.run(None, {"pixels": x})[0]

    import torch

    torch.manual_seed(secrets.randbits(63))
    module = torch.export.load(file).module()

    def answer(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return module(torch.from_numpy(x)).numpy()

    return answer


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Load the file in each worker, after its fork."""
    app.state.answer = load(os.environ["FILE"])
    app.state.kept = OrderedDict()
    yield


async def logits(request: Request) -> Response:
    key, kept = request.headers.get("idempotency-key"), request.app.state.kept
    headers = {} if key is None else {"Idempotency-Key": key}
    if key in kept:
        return Response(kept[key], media_type="application/octet-stream", headers=headers)
    body = await request.body()
    try:
        if len(body) > MOST_BYTES:
            raise ValueError(f"expected at most {MOST_BYTES} bytes, got {len(body)}")
        x = np.load(io.BytesIO(body), allow_pickle=False)
        if x.dtype != np.float32 or x.ndim != 4 or not len(x):
            raise ValueError(f"expected float32 (N, C, H, W), got {x.dtype} {x.shape}")
        if not (x.min() >= 0 and x.max() <= 1):
            raise ValueError("expected pixels in [0, 1]")
        answer = await run_in_threadpool(request.app.state.answer, x)
    except Exception as error:  # also the runtime's, for another shape
        return PlainTextResponse(" ".join(str(error).split())[:300], status_code=400)
    out = io.BytesIO()
    np.save(out, answer)
    if key is not None:
        kept[key] = out.getvalue()
        while len(kept) > KEPT_ANSWERS:
            kept.popitem(last=False)
    return Response(out.getvalue(), media_type="application/octet-stream", headers=headers)


app = Starlette(routes=[Route("/", logits, methods=["POST"])], lifespan=lifespan)
