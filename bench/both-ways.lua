-- A download of 1 MiB and an upload of 1 MiB, in turn.
local body = string.rep("0123456789abcdef", 65536)
local download, upload
local turn = 0

function init(args)
  download = wrk.format("GET", "/1m")
  upload = wrk.format("POST", "/take", nil, body)
end

function request()
  turn = turn + 1
  if turn % 2 == 1 then
    return download
  end
  return upload
end
