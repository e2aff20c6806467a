mod rates {
    pub fn convert(amount: i64, rate: i64) -> i64 {
        amount * rate / 100
    }

    #[allow(dead_code)]
    fn hidden() -> u8 {
        1
    }
}

pub struct Account {
    owner: String,
    balance: i64,
}

impl Account {
    pub fn deposit(&mut self, amount: i64) {
        self.balance += amount;
    }

    pub fn owner(&self) -> &str {
        &self.owner
    }
}

pub fn settle(account: &mut Account, amount: i64) -> i64 {
    let converted = rates::convert(amount, 95);
    account.deposit(converted);
    account.balance
}
