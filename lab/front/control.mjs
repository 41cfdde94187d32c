// Faults for tests, request counts and a log of recent requests, behind a token on a loopback port of its own.
//
//   POST /faults          {operation?, method?, account?, path_contains?, skip?, count?, action, retry_after_s?, delay_s?,
//                          status?, code?, after_effect?}
//   DELETE /faults        forget all faults, and let go of every held request
//   GET /faults           {ordered, held}: how many faults are still to be met, how many requests are held
//   GET /counters         {operation: {requests, bytes_in, statuses: {status: n}}}
//   POST /counters/reset
//   GET /requests?since=N {requests: [{number, operation, account, container, blob, status, bytes_in, if_sequence_number_eq,
//                          seconds}]}
//
// Actions: `unavailable` (503 with Retry-After), `error` (500), `cut` (connection cut before any effect), `drop`
// (carried out, then the connection cut instead of a response), `delay`, `hold` (until the faults are deleted), and
// `answer` (`status` with the error code `code`; with `after_effect` the request is carried out first).

import { timingSafeEqual } from "node:crypto";
import http from "node:http";

const LOG_LENGTH = 50_000;
const ACTIONS = new Set(["unavailable", "error", "cut", "drop", "delay", "hold", "answer"]);

export class Control {
  #faults = [];
  #counters = {};
  #log = [];
  #number = 0;
  #held = [];

  /** Return the fault that a request meets, or undefined; each request uses up one of the fault's counts. */
  take(method, url, request) {
    for (const fault of this.#faults) {
      if (fault.operation && fault.operation !== request.operation) continue;
      if (fault.method && fault.method !== method) continue;
      if (fault.account && fault.account !== request.account) continue;
      if (fault.path_contains && !url.split("?", 1)[0].includes(fault.path_contains)) continue;
      if (fault.skip > 0) {
        fault.skip--;
        return undefined;
      }
      if (--fault.count === 0) this.#faults.splice(this.#faults.indexOf(fault), 1);
      return fault;
    }
    return undefined;
  }

  /** Wait until the faults are deleted. */
  held() {
    return new Promise((resolve) => this.#held.push(resolve));
  }

  /** Record a request that was answered after so many seconds; `status` is 0 where the connection was cut without a response. */
  record(request, headers, status, seconds) {
    const bytes = Number(headers["content-length"] ?? 0);
    const counter = (this.#counters[request.operation] ??= { requests: 0, bytes_in: 0, statuses: {} });
    counter.requests++;
    counter.bytes_in += bytes;
    counter.statuses[status] = (counter.statuses[status] ?? 0) + 1;
    this.#log.push({
      number: ++this.#number, operation: request.operation, account: request.account, container: request.container,
      blob: request.blob, status, bytes_in: bytes, if_sequence_number_eq: headers["x-ms-if-sequence-number-eq"] ?? null, seconds,
    });
    if (this.#log.length > LOG_LENGTH) this.#log.splice(0, LOG_LENGTH / 10);
  }

  /** Serve the control port. */
  listen(port, token) {
    const right = Buffer.from(`Bearer ${token}`);
    const server = http.createServer(async (request, response) => {
      const given = Buffer.from(request.headers.authorization ?? "");
      const body = [];
      for await (const chunk of request) body.push(chunk);
      if (given.length !== right.length || !timingSafeEqual(given, right)) return reply(response, 401, { error: "wrong token" });
      try {
        const answer = this.#answer(request, Buffer.concat(body).toString("utf8"));
        reply(response, answer === undefined ? 404 : 200, answer ?? { error: "unknown path" });
      } catch (error) {
        reply(response, 400, { error: String(error.message) });
      }
    });
    return new Promise((resolve, reject) => server.on("error", reject).listen(port, "127.0.0.1", () => resolve(server)));
  }

  #answer(request, body) {
    const url = new URL(request.url, "http://127.0.0.1");
    switch (`${request.method} ${url.pathname}`) {
      case "POST /faults": {
        const fault = { skip: 0, count: 1, retry_after_s: 0, delay_s: 0, ...JSON.parse(body) };
        if (!ACTIONS.has(fault.action)) throw new Error(`unknown action ${fault.action}`);
        if (fault.action === "answer" && !(fault.status >= 400 && fault.code)) throw new Error("an answer needs status and code");
        if (!(fault.count > 0)) throw new Error("count must be positive");
        this.#faults.push(fault);
        return {};
      }
      case "DELETE /faults":
        this.#faults = [];
        for (const release of this.#held.splice(0)) release();
        return {};
      case "GET /faults":
        return { ordered: this.#faults.length, held: this.#held.length };
      case "GET /counters":
        return this.#counters;
      case "POST /counters/reset":
        this.#counters = {};
        return {};
      case "GET /requests": {
        const since = Number(url.searchParams.get("since") ?? 0);
        return { requests: this.#log.filter((entry) => entry.number > since) };
      }
    }
    return undefined;
  }
}

function reply(response, status, answer) {
  response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(answer));
}
