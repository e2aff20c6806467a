local config = {
  host = "local",
  port = 8080,
  paths = { "lib", "src" },
}

local function lookup(key, default)
  local value = config[key]
  if value == nil then
    return default
  else
    return value
  end
end

local name = "server"
repeat
  name = name .. "!"
until #name > 8
print(name, lookup("port", 80))
