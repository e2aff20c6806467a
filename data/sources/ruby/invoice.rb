class Invoice
  attr_reader :owner

  def initialize(owner, prices = [])
    @owner = owner
    @prices = prices
  end

  def add(price)
    @prices << price
    self
  end

  def total
    sum = 0
    @prices.each do |price|
      sum += price
    end
    sum
  end
end
