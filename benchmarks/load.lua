-- Sends prepared requests in turn: `wrk ... -- FILE SERIAL`. All of the work is done before the clock starts.
-- FILE holds whole requests, separated by zero bytes. Wherever one has twelve @, they are replaced by a number that
-- no other request carries, counted on from SERIAL: a fresh correlation id, a URL that is a change.
local MARK = "@@@@@@@@@@@@"
requests = {}
local count, n, serial = 0, 0, 0

local function split(text)
  local parts, from = {}, 1
  local first, last = text:find(MARK, from, true)
  while first do
    parts[#parts + 1] = text:sub(from, first - 1)
    from = last + 1
    first, last = text:find(MARK, from, true)
  end
  parts[#parts + 1] = text:sub(from)
  return parts
end

function init(args)
  serial = tonumber(args[2])
  local file = io.open(args[1], "rb")
  for text in file:read("*a"):gmatch("[^%z]+") do
    count = count + 1
    requests[count] = split(text)
  end
  file:close()
end

function request()
  n = n % count + 1
  local parts = requests[n]
  if #parts == 1 then
    return parts[1]
  end
  serial = serial + 1
  if #parts == 2 then
    return parts[1] .. serial .. parts[2]
  end
  return table.concat(parts, serial)
end

function done(summary, latency)
  local errors = summary.errors
  local shape = '{"requests": %d, "seconds": %f, "bytes": %d, "failed": {'
  io.write("\n", string.format(shape, summary.requests, summary.duration / 1e6, summary.bytes))
  for i, kind in ipairs({"connect", "read", "write", "status", "timeout"}) do
    io.write(i > 1 and ", " or "", string.format('"%s": %d', kind, errors[kind]))
  end
  io.write('}, "latency_ms": {')
  for i, p in ipairs({50, 75, 90, 95, 99, 99.9, 99.99, 100}) do
    -- Beyond its last value wrk's percentile is 0.
    local us = p == 100 and latency.max or latency:percentile(p)
    io.write(i > 1 and ", " or "", string.format('"%g": %f', p, us / 1000))
  end
  io.write("}}\n")
end
