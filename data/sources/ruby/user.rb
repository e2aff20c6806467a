module Accounts
  LIMIT = 3

  class User
    def initialize(name, email)
      @name = name
      @email = email
      @failures = 0
    end

    def domain
      parts = @email.split("@")
      parts.last
    end

    def locked?
      if @failures >= LIMIT
        true
      else
        false
      end
    end
  end
end
