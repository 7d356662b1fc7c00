-- Sends resolves of ever new routes: `wrk ... -- FILE SERIAL ROUTES`. The r-th most popular of ROUTES routes is asked for
-- in proportion to 1/r, and popularity has nothing to do with the order of the names. FILE holds one request, with
-- twelve @ for the number of the tenant, then twelve for that of the service.
dofile(debug.getinfo(1, "S").source:match("@(.*/)") .. "load.lua")
local read = init
local routes = 0

function init(args)
  read(args)
  routes = tonumber(args[3])
  math.randomseed(tonumber(args[2]) % 1000003)
end

function request()
  local rank = math.floor(routes ^ math.random())
  local i = rank * 7919 % routes
  local parts = requests[1]
  return parts[1] .. math.floor(i / 500) .. parts[2] .. string.format("%d", i) .. parts[3]
end
