local stock = {}

local function add(item, amount)
  stock[item] = (stock[item] or 0) + amount
end

local function report()
  for item, amount in pairs(stock) do
    print(item, amount)
  end
end

add("bolt", 4)
add("nut", 9)
report()
