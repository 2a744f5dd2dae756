"""Owns an OpenAI-compatible front for OpenVINO GenAI's ContinuousBatchingPipeline, which comes without a server.

Run by `xllm bench compare` in a virtual environment of its own. Needs nothing but openvino-genai and numpy. Prompts are
token ids, sampling is greedy. Nothing is turned into text, which favours OpenVINO slightly.

One thread runs the pipeline; the event loop in the main thread speaks HTTP.
"""

import argparse
import asyncio
import json
import queue
import threading

import numpy
import openvino
import openvino_genai


class Pipeline:
    """Runs steps while there is work; tokens go to the event loop, one message per step."""

    def __init__(self, options, loop):
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = options.cache_gb
        scheduler.max_num_seqs = options.max_num_seqs
        scheduler.max_num_batched_tokens = options.max_num_batched_tokens
        scheduler.enable_prefix_caching = True
        scheduler.dynamic_split_fuse = True
        properties = {"INFERENCE_NUM_THREADS": options.threads}
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(options.model, scheduler, "CPU", properties, {})
        self._loop = loop
        self._inbox = queue.SimpleQueue()  # (id, prompt ids, config, asyncio.Queue), or (id, None, None, None): cancel
        threading.Thread(target=self._run, daemon=True).start()

    def submit(self, request_id, prompt_ids, config):
        """The queue gets (new token ids, whether that was all), or (None, True) when the pipeline refuses."""
        outbox = asyncio.Queue()
        self._inbox.put((request_id, prompt_ids, config, outbox))
        return outbox

    def cancel(self, request_id):
        self._inbox.put((request_id, None, None, None))

    def _run(self):
        live = {}  # id -> (handle, outbox)
        while True:
            self._take_messages(live)
            if self._pipeline.has_non_finished_requests():
                self._pipeline.step()
            news = []
            for request_id, (handle, outbox) in list(live.items()):
                is_done = handle.get_status() != openvino_genai.GenerationStatus.RUNNING
                ids = []
                while handle.can_read():
                    for output in handle.read().values():
                        ids.extend(output.generated_ids)
                if ids or is_done:
                    news.append((outbox, ids, is_done))
                if is_done:
                    del live[request_id]
            if news:
                self._loop.call_soon_threadsafe(deliver, news)

    def _take_messages(self, live):
        is_idle = not live and not self._pipeline.has_non_finished_requests()
        while True:
            try:
                request_id, prompt_ids, config, outbox = self._inbox.get(block=is_idle)
            except queue.Empty:
                return
            is_idle = False
            if prompt_ids is None:
                if request_id in live:
                    live.pop(request_id)[0].cancel()
                continue
            try:
                prompt = openvino.Tensor(numpy.array([prompt_ids], dtype=numpy.int64))
                live[request_id] = (self._pipeline.add_request(request_id, prompt, config), outbox)
            except RuntimeError as error:
                print(f"request {request_id} refused: {error}", flush=True)
                self._loop.call_soon_threadsafe(outbox.put_nowait, (None, True))


def deliver(news):
    for outbox, ids, is_done in news:
        outbox.put_nowait((ids, is_done))


def generation_config(body):
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = body.get("max_tokens", 16)
    config.min_new_tokens = body.get("min_tokens", 0)
    config.ignore_eos = bool(body.get("ignore_eos"))
    if "stop_token_ids" in body:
        config.stop_token_ids = set(body["stop_token_ids"])
    config.do_sample = False
    return config


class Front:
    """HTTP/1.1, as little of it as a load generator needs: content-length in, JSON or chunked events out, keep-alive."""

    def __init__(self, pipeline, model_name):
        self._pipeline = pipeline
        self._model_name = model_name
        self._next_id = 0

    async def serve(self, reader, writer):
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                request_line, *lines = head.split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                await self._answer(request_line.split(" ")[1], body, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # The client has gone.
        finally:
            writer.close()

    async def _answer(self, path, body, writer):
        if path == "/v1/completions":
            await self._complete(json.loads(body), writer)
        elif path == "/v1/models":
            reply(writer, 200, {"object": "list", "data": [{"id": self._model_name, "object": "model"}]})
        else:
            reply(writer, 200 if path == "/health" else 404, {})
        await writer.drain()

    async def _complete(self, body, writer):
        self._next_id += 1
        request_id, prompt_ids = self._next_id, body["prompt"]
        outbox = self._pipeline.submit(request_id, prompt_ids, generation_config(body))
        all_ids, is_done, is_open = [], False, False
        while not is_done:
            ids, is_done = await outbox.get()
            if ids is None:
                reply(writer, 500, {"error": {"message": "the pipeline refused the request"}})
                return
            all_ids += ids
            if not body.get("stream"):
                continue
            if writer.is_closing():
                self._pipeline.cancel(request_id)
                raise ConnectionResetError
            if not is_open:
                is_open = True
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                )
            for token_id in ids:
                write_event(writer, '{"choices":[{"index":0,"text":"","token_ids":[%d]}]}' % token_id)
        usage = {"prompt_tokens": len(prompt_ids), "completion_tokens": len(all_ids)}
        if body.get("stream"):
            write_event(writer, json.dumps({"choices": [], "usage": usage}))
            write_event(writer, "[DONE]")
            writer.write(b"0\r\n\r\n")
        else:
            reply(writer, 200, {"choices": [{"index": 0, "text": "", "token_ids": all_ids}], "usage": usage})


def write_event(writer, data):
    event = f"data: {data}\n\n".encode()
    writer.write(b"%x\r\n%b\r\n" % (len(event), event))


def reply(writer, status, value):
    body = json.dumps(value).encode()
    writer.write(b"HTTP/1.1 %d -\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(body)))
    writer.write(body)


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, help="a GGUF file, or a folder in OpenVINO's own format")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--cache-gb", type=int, required=True)
    parser.add_argument("--max-num-seqs", type=int, required=True)
    parser.add_argument("--max-num-batched-tokens", type=int, required=True)
    options = parser.parse_args()
    front = Front(Pipeline(options, asyncio.get_running_loop()), "openvino")
    server = await asyncio.start_server(front.serve, "127.0.0.1", options.port, limit=2**20)
    await server.serve_forever()


asyncio.run(main())
