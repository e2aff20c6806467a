local function words(line)
  local list = {}
  for word in line:gmatch("%a+") do
    list[#list + 1] = word
  end
  return list
end

local function trim(line)
  return (line:gsub("^%s+", ""))
end

for i = 1, 3 do
  if i == 2 then
    break
  end
  print(i, trim("  hello"), #words("a b"))
end
