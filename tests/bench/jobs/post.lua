-- The load of wrk: POST /emails with the e-mails of the file that is named after --, one JSON a line.
-- Prints one line of JSON at the end.

local requests, next_one = {}, 0

function init(args)
  local headers = { ["Content-Type"] = "application/json" }
  for line in io.lines(args[1]) do
    requests[#requests + 1] = wrk.format("POST", "/emails", headers, line)
  end
end

function request()
  next_one = next_one % #requests + 1
  return requests[next_one]
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format(
    '{"count": %d, "seconds": %.6f, "failed": %d, "p99": %.3f}\n',
    summary.requests, summary.duration / 1e6, failed, latency:percentile(99) / 1e3))
end
