class Sensor
  def initialize(place, limit: 30)
    @place = place
    @limit = limit
    @readings = []
  end

  def record(value)
    raise ArgumentError, "negative" if value < 0

    @readings.push(value)
  end

  def alarm?
    begin
      latest = @readings.fetch(-1)
      latest > @limit
    rescue IndexError
      false
    end
  end
end
