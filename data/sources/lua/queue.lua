local limit <const> = 8
local queue = { first = 1, last = 0 }

local function push(value)
  if queue.last - queue.first >= limit then
    return false
  end
  queue.last = queue.last + 1
  queue[queue.last] = value
  return true
end

while push("job") do
  print(queue.last)
end
